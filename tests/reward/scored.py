"""Untrained reward models for tests of scoring."""

import json
from pathlib import Path

from tests.tiny import make_model, make_tokenizer


def make_scorer_folder(
    folder: Path, *, heads: int = 2, seed: int = 0, limit: int = 512, trained_for: str = "shared"
) -> Path:
    """Write a reward model with random weights, as a run publishes it, in half a second."""
    import torch
    from transformers import AutoModelForSequenceClassification

    base = make_model(folder.with_name(f"{folder.name}-base"), seed=seed)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=heads)
    torch.nn.init.normal_(model.score.weight)
    model.config.pad_token_id = 0
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    report = {
        "config": {"dtype": "float32", "lora_r": 0},
        "training": {"layout": trained_for, "max_tokens": limit},
        "outputs": {"heads": heads, "criteria": []},
    }
    (folder / "report.json").write_text(json.dumps(report))
    return folder

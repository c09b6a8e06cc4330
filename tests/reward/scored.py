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


def make_letter_scorer(folder: Path, letter: str = "b", *, steps: int = 150) -> Path:
    """Write a reward model that scores texts of a's and b's by the share of a letter, in a few seconds.

    It is a model of `make_scorer_folder`, trained to predict the share.
    """
    import random

    import torch
    from transformers import AutoModelForSequenceClassification

    from recipes.models.chat_format import ChatFormat

    make_scorer_folder(folder, heads=1)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    chat, rng = ChatFormat(make_tokenizer()), random.Random(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(steps):
        texts = ["".join(rng.choices("ab", k=rng.randint(1, 12))) for _ in range(16)]
        question = [{"role": "user", "content": f"Question g{step % 16}?"}]
        prompt, answers = chat.encode(question, texts)
        rows = [[*prompt.tolist(), *answer.tolist()] for answer in answers]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        shares = torch.tensor([text.count(letter) / len(text) for text in texts])
        scores = model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, 0]
        ((scores - shares) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder

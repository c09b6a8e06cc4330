"""Rankings by a rule that a tiny model can learn: the more x, the better."""

import random
from pathlib import Path
from typing import Any

from recipes.preferences.groups import Group, Judgment, write_groups
from recipes.rundir import RunDir
from tests.tiny import make_model

LETTERS = "abxyz "


def make_group(number: int, *, k: int = 3, split: str = "train", reviewers: int = 2) -> Group:
    rng = random.Random(number)
    texts = ["".join(rng.choices(LETTERS, k=rng.randint(3, 12))) for _ in range(k)]
    ids = [number * 100 + i for i in range(k)]
    counts = [text.count("x") for text in texts]
    tiers = [
        [i for i, count in zip(ids, counts, strict=True) if count == level]
        for level in sorted(set(counts), reverse=True)
    ]
    return Group(
        group_id=f"g{number}",
        prompt=[{"role": "user", "content": f"Write {number} letters."}],
        response_ids=ids,
        responses=texts,
        rankings=[Judgment(f"r{n}", tiers) for n in range(reviewers)],
        split=split,
    )


def make_groups(train: int, test: int, **options: Any) -> list[Group]:
    held_out = [make_group(1000 + n, split="test", **options) for n in range(test)]
    return held_out + [make_group(n, **options) for n in range(train)]


def make_run(folder: Path, model: Path, groups: list[Group], **config: Any) -> RunDir:
    settings = {
        "base_model": str(model),
        "epochs": 2,
        "learning_rate": 3e-3,
        "batch_size": 4,
        "micro_batch_size": 4,
        "lora_r": 4,
        "lora_alpha": 8,
        **config,
    }
    spec = {"kind": "reward", "run_id": None, "config": settings, "inputs": {"snapshot": "abc"}}
    run_dir = RunDir.create(folder, spec)
    write_groups(run_dir.data / "preferences.parquet", groups)
    return run_dir


def tiny_llama(folder: Path, **changes: Any) -> Path:
    return make_model(folder / "llama", **changes)


def messages(run_dir: RunDir, level: str) -> list[str]:
    return [e["text"] for e in run_dir.events() if e["event"] == "message" and e["level"] == level]

"""Answers of a model to held-out prompts, and their scores by a reward model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.engines.sampled_text import Prompt
from finetune.settings import SamplingConfig
from finetune.statistics.means import mean_difference
from finetune.statistics.win_rate import outcome, win_rate
from finetune.training.models.language_model import load_policy, load_tokenizer
from finetune.training.sampling.requests import plan
from finetune.training.sampling.seeded import sample_batch
from recipes.models.chat_options import ChatOptions
from recipes.preferences.groups import Group
from recipes.rundir import write_json
from reward.training.score import Scorer

Answers = list[dict[str, Any]]
"""A row per answer: `prompt_id`, `sample`, `text`, `tokens`, `truncated` and `score`."""


def stored_answers(
    file: Path,
    base: Path,
    adapter: Path | None,
    groups: Sequence[Group],
    scorer: Scorer,
    config: SamplingConfig,
) -> Answers:
    """Return the scored answers to the prompts of the groups. They are read from `file` if it exists.

    All models use the same random numbers. The answers are sampled in batches, the longest prompts
    first.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, _answers(base, adapter, groups, scorer, config))
    return json.loads(file.read_text())


def _answers(
    base: Path,
    adapter: Path | None,
    groups: Sequence[Group],
    scorer: Scorer,
    config: SamplingConfig,
) -> Answers:
    tokenizer = load_tokenizer(str(base))
    name = str(adapter) if adapter else None
    model, chat = load_policy(str(base), name, config.dtype, tokenizer, ChatOptions())
    prompts = [Prompt(group.group_id, group.prompt) for group in groups]
    requests, _ = plan(prompts, chat, model.config, config)
    rows: dict[str, Answers] = {prompt.prompt_id: [] for prompt in prompts}
    for start in range(0, len(requests), config.batch_size):
        some = requests[start : start + config.batch_size]
        for answer in sample_batch(model, chat, some, config):
            rows[answer.prompt_id].append(
                {
                    "prompt_id": answer.prompt_id,
                    "sample": answer.sample,
                    "text": answer.text,
                    "tokens": answer.tokens,
                    "truncated": answer.truncated,
                }
            )
    for prompt in prompts:
        texts = [row["text"] for row in rows[prompt.prompt_id]]
        [scores] = scorer.score([(prompt.messages, texts)])
        for row, score in zip(rows[prompt.prompt_id], scores, strict=True):
            row["score"] = None if np.isnan(score) else float(score)
    return [row for prompt in prompts for row in rows[prompt.prompt_id]]


def compare(before: Answers, after: Answers) -> dict[str, Any]:
    """Return the changes of score and length, with intervals by prompt, and the win rate by score."""
    earlier = {(row["prompt_id"], row["sample"]): row for row in before}
    pairs = [(row, earlier[row["prompt_id"], row["sample"]]) for row in after]
    scored = [
        (new, old) for new, old in pairs if new["score"] is not None and old["score"] is not None
    ]
    return {
        "answers": len(scored),
        "score": mean_difference((n["prompt_id"], n["score"], o["score"]) for n, o in scored),
        "win_rate": win_rate((n["prompt_id"], outcome(n["score"], o["score"])) for n, o in scored),
        "tokens": mean_difference((n["prompt_id"], n["tokens"], o["tokens"]) for n, o in pairs),
        "truncated": {
            "baseline": sum(o["truncated"] for _, o in pairs) / len(pairs),
            "candidate": sum(n["truncated"] for n, _ in pairs) / len(pairs),
        },
        "identical": sum(n["text"] == o["text"] for n, o in pairs) / len(pairs),
        "distinct": len({n["text"] for n, _ in pairs}) / len(pairs),
    }

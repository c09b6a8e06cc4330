"""The divergence of a candidate from its base model, on its own answers. Pure numpy.

Each answer has its log-ratio log π - log π_ref in nats, see `finetune/training/sampling/divergence.py`. The
mean over answers, and the sum divided by the number of tokens, estimate KL(π ‖ π_ref) per answer and per
token.
"""

from collections.abc import Iterable
from typing import Any, TypedDict

import numpy as np

from finetune.statistics.means import mean_figure, sums_by_prompt
from reward.evaluation.schema import Figure

MISSING = "No answer has a log-ratio."


class Divergence(TypedDict):
    """The estimates with 95% intervals, which are bootstrapped by prompt."""

    per_answer: Figure
    per_token: Figure
    answers: int


def divergence(rows: Iterable[dict[str, Any]], seed: int) -> Divergence | None:
    """Return the divergence of rows of answers.parquet, or None if they have no log-ratios."""
    rated = [row for row in rows if row.get("candidate_log_ratio") is not None]
    if not rated:
        return None
    prompts = [row["prompt_id"] for row in rated]
    sums, answers = sums_by_prompt(
        prompts, np.array([row["candidate_log_ratio"] for row in rated], dtype=float)
    )
    tokens, _ = sums_by_prompt(
        prompts, np.array([row["candidate_tokens"] for row in rated], dtype=float)
    )
    return {
        "per_answer": mean_figure(sums, answers, seed, missing=MISSING),
        "per_token": mean_figure(sums, np.maximum(tokens, 1), seed, missing=MISSING),
        "answers": len(rated),
    }

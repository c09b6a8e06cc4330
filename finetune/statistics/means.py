"""Means over prompts, with intervals. Pure numpy.

Several answers to one prompt are not independent, so the intervals are computed by resampling
prompts.
"""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from labeling.statistics.intervals import ratio_interval
from reward.evaluation.schema import Figure


def mean_figure(sums: np.ndarray, sizes: np.ndarray, seed: int, *, missing: str) -> Figure:
    """Return Σ sums / Σ sizes with a 95% interval. Both arrays have an entry per prompt.

    Without prompts, the value is None and the reason is `missing`.
    """
    if not len(sizes):
        return {"value": None, "interval": None, "reason": missing}
    interval = ratio_interval(sums, sizes, seed)
    reason = None if interval else "A single prompt has no interval."
    return {"value": float(sums.sum() / sizes.sum()), "interval": interval, "reason": reason}


def mean_difference(
    rows: Iterable[tuple[Hashable, float, float]], *, seed: int = 0
) -> dict[str, Any]:
    """Return the mean difference between the candidate and the baseline, for example of lengths.

    Each row is (prompt, candidate, baseline). The result has the keys `value`, `interval` (95%,
    bootstrapped by prompt; None for a single prompt), `candidate` and `baseline` (their means) and
    `prompts`. Without rows, all values are None.
    """
    rows = list(rows)
    if not rows:
        return {"value": None, "interval": None, "candidate": None, "baseline": None, "prompts": 0}
    ours = np.array([row[1] for row in rows], dtype=float)
    theirs = np.array([row[2] for row in rows], dtype=float)
    total, answers = sums_by_prompt([row[0] for row in rows], ours - theirs)
    return {
        "value": float((ours - theirs).mean()),
        "interval": ratio_interval(total, answers, seed),
        "candidate": float(ours.mean()),
        "baseline": float(theirs.mean()),
        "prompts": len(answers),
    }


def sums_by_prompt(prompts: list[Hashable], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of the values of each prompt, (prompts,) each."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    index = np.array([numbers[prompt] for prompt in prompts])  # (answers,)
    return np.bincount(index, weights=values), np.bincount(index).astype(float)

"""Whether the heads of a reward model disagree where it is wrong. Pure numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np

from labeling.statistics.intervals import resamples
from recipes.preferences.groups import strict_wins
from reward.evaluation.report import FEW_PAIRS, FEW_PROMPTS, Scored

REPLICATES = 300
PARTS = 3


@dataclass(frozen=True)
class Pairs:
    """Strictly ordered pairs of held-out prompts, all (pairs,)."""

    spread: np.ndarray  # standard deviation over the heads of r_i - r_j
    gap: np.ndarray  # |r_i - r_j| of the mean
    right: np.ndarray  # evidence for the side that the mean prefers
    wrong: np.ndarray  # evidence for the other; equal scores are half right
    prompt: np.ndarray  # which prompt it belongs to


def disagreement(scored: Sequence[Scored], seed: int = 0) -> dict[str, Any]:
    """How far the heads lie apart, and how well that, or a small gap alone, finds wrong pairs.

    `finds_mistakes` is the probability that a pair ordered wrongly shows more of it than one ordered
    rightly (area under the ROC curve): ½ is chance. Heads are worth their name where `spread` or
    `relative`, the spread over the gap, do better than `small_gap`, for which one head is enough.
    """
    pairs = pairs_of(scored)
    heads = next((s.heads.shape[1] for s in scored if s.heads is not None), 0)
    counts = {"heads": heads, "pairs": len(pairs.gap), "prompts": len(set(pairs.prompt.tolist()))}
    signs = {
        "spread": pairs.spread,
        "relative": pairs.spread / np.maximum(pairs.gap, 1e-9),
        "small_gap": -pairs.gap,
    }
    return {
        **counts,
        "mean_spread": float(pairs.spread.mean()) if len(pairs.gap) else None,
        "finds_mistakes": {name: _found(values, pairs, seed) for name, values in signs.items()},
        "parts": parts(pairs),
    }


def pairs_of(scored: Sequence[Scored]) -> Pairs:
    rows: list[tuple[float, float, float, float, int]] = []
    for number, item in enumerate(scored):
        strict = strict_wins(item.group)
        heads = item.scores[:, None] if item.heads is None else item.heads
        for i, j in combinations(range(len(strict)), 2):
            if strict[i, j] + strict[j, i] == 0:
                continue
            gap = float(item.scores[i] - item.scores[j])
            ahead = 0.5 + 0.5 * np.sign(gap)
            right = ahead * strict[i, j] + (1 - ahead) * strict[j, i]
            wrong = strict[i, j] + strict[j, i] - right
            rows.append((float((heads[i] - heads[j]).std()), abs(gap), right, wrong, number))
    columns = np.array(rows, dtype=float).reshape(-1, 5).T
    return Pairs(columns[0], columns[1], columns[2], columns[3], columns[4].astype(int))


def _found(values: np.ndarray, pairs: Pairs, seed: int) -> dict[str, Any]:
    if not pairs.wrong.sum() or not pairs.right.sum():
        reason = (
            "No pair was ordered wrongly." if pairs.right.sum() else "No pair was ordered rightly."
        )
        return {"value": None, "interval": None, "reason": reason}
    value = auc(values, pairs.right, pairs.wrong)
    _, place = np.unique(pairs.prompt, return_inverse=True)
    count = int(place.max()) + 1
    if count < FEW_PROMPTS or len(values) < FEW_PAIRS:
        reason = f"An interval needs {FEW_PROMPTS} prompts and {FEW_PAIRS} pairs."
        return {"value": value, "interval": None, "reason": reason}
    found = []
    for drawn in chain.from_iterable(resamples(count, seed, REPLICATES)):
        right, wrong = pairs.right * drawn[place], pairs.wrong * drawn[place]
        if right.sum() and wrong.sum():
            found.append(auc(values, right, wrong))
    low, high = np.quantile(found, [0.025, 0.975])
    return {"value": value, "interval": [float(low), float(high)], "reason": None}


def auc(values: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> float:
    """The probability that a wrong one has the larger value, equal ones by half; by weight of evidence."""
    _, place = np.unique(values, return_inverse=True)
    rights, wrongs = np.bincount(place, weights=right), np.bincount(place, weights=wrong)
    below = np.cumsum(rights) - rights
    return float((wrongs * (below + rights / 2)).sum() / (right.sum() * wrong.sum()))


def parts(pairs: Pairs) -> list[dict[str, Any]]:
    """Accuracy where the heads agree most, less and least, in parts of the same number of pairs."""
    order = np.argsort(pairs.spread, kind="stable")
    if len(order) < PARTS * FEW_PAIRS:
        return []
    rows = []
    for chosen in np.array_split(order, PARTS):
        right, wrong = pairs.right[chosen].sum(), pairs.wrong[chosen].sum()
        rows.append(
            {
                "low": float(pairs.spread[chosen[0]]),
                "high": float(pairs.spread[chosen[-1]]),
                "pairs": len(chosen),
                "accuracy": float(right / (right + wrong)),
            }
        )
    return rows

"""The disagreement between the heads of a reward model, as a sign of its mistakes. Pure numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from labeling.statistics.intervals import resamples
from recipes.preferences.groups import strict_wins
from reward.evaluation.report import FEW_PAIRS, FEW_PROMPTS, Scored
from reward.evaluation.schema import Disagreement, Figure, SpreadPart

REPLICATES = 300
PARTS = 3


@dataclass(frozen=True)
class Pairs:
    """Strictly ordered pairs of held-out prompts. All arrays are (pairs,)."""

    spread: np.ndarray  # standard deviation over the heads of r_i - r_j
    gap: np.ndarray  # |r_i - r_j| of the mean score
    right: np.ndarray  # evidence for the response with the higher mean score
    wrong: np.ndarray  # evidence for the other response; equal scores are half right
    prompt: np.ndarray  # index of the prompt


def disagreement(scored: Sequence[Scored], seed: int = 0) -> Disagreement:
    """Return the spread of the heads, and how well it finds pairs that are ordered incorrectly.

    `finds_mistakes` has the area under the ROC curve for each sign: the probability that an incorrectly
    ordered pair has a larger value than a correctly ordered one. ½ is chance. The sign `small_gap`
    needs only one head. Several heads are worth their cost if `spread`, or `relative`, which is the
    spread divided by the gap, is better.
    """
    pairs = pairs_of(scored)
    heads = next((s.heads.shape[1] for s in scored if s.heads is not None), 0)
    relative = pairs.spread / np.maximum(pairs.gap, 1e-9)
    return {
        "heads": heads,
        "pairs": len(pairs.gap),
        "prompts": len(set(pairs.prompt.tolist())),
        "mean_spread": float(pairs.spread.mean()) if len(pairs.gap) else None,
        "finds_mistakes": {
            "spread": _auc_figure(pairs.spread, pairs, seed),
            "relative": _auc_figure(relative, pairs, seed),
            "small_gap": _auc_figure(-pairs.gap, pairs, seed),
        },
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


def _auc_figure(values: np.ndarray, pairs: Pairs, seed: int) -> Figure:
    if not pairs.wrong.sum() or not pairs.right.sum():
        reason = (
            "No pair was ordered incorrectly."
            if pairs.right.sum()
            else "No pair was ordered correctly."
        )
        return {"value": None, "interval": None, "reason": reason}
    value = auc(values, pairs.right, pairs.wrong)
    _, prompt = np.unique(pairs.prompt, return_inverse=True)
    count = int(prompt.max()) + 1
    if count < FEW_PROMPTS or len(values) < FEW_PAIRS:
        reason = f"An interval needs {FEW_PROMPTS} prompts and {FEW_PAIRS} pairs."
        return {"value": value, "interval": None, "reason": reason}
    replicates = []
    for drawn in chain.from_iterable(resamples(count, seed, REPLICATES)):
        right, wrong = pairs.right * drawn[prompt], pairs.wrong * drawn[prompt]
        if right.sum() and wrong.sum():
            replicates.append(auc(values, right, wrong))
    low, high = np.quantile(replicates, [0.025, 0.975])
    return {"value": value, "interval": [float(low), float(high)], "reason": None}


def auc(values: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> float:
    """Return the probability that a wrong pair has a larger value than a right one.

    Equal values count half, and pairs are weighted by their evidence.
    """
    _, indices = np.unique(values, return_inverse=True)
    rights, wrongs = np.bincount(indices, weights=right), np.bincount(indices, weights=wrong)
    below = np.cumsum(rights) - rights
    return float((wrongs * (below + rights / 2)).sum() / (right.sum() * wrong.sum()))


def parts(pairs: Pairs) -> list[SpreadPart]:
    """Return the accuracy in equal parts of the pairs, from the smallest spread to the largest."""
    order = np.argsort(pairs.spread, kind="stable")
    if len(order) < PARTS * FEW_PAIRS:
        return []
    rows: list[SpreadPart] = []
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

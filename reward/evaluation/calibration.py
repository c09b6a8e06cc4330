"""A temperature for the scores, so that σ((r_i - r_j) / T) is how often i really wins. Pure numpy.

Guo et al. 2017 (arXiv:1706.04599), for pairs. The order of responses does not change. Fitted on
held-out prompts; what it is worth is measured on prompts that it was not fitted on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recipes.preferences.groups import wins
from reward.evaluation.report import FEW_PAIRS, FEW_PROMPTS, Evidence, Scored, ece

COLDEST, HOTTEST = 0.02, 50.0
"""In units of the typical gap in score: a model that was hardly trained has tiny ones."""
FOLDS = 5


@dataclass(frozen=True)
class Comparisons:
    """Every ordered pair with evidence: the gap in score and the weight of wins at it. Both (n,)"""

    gaps: np.ndarray
    weights: np.ndarray

    def typical_gap(self) -> float:
        """Root mean square; 1 where all scores are equal."""
        if not self.weights.sum():
            return 1.0
        return float(np.sqrt(self.weights @ self.gaps**2 / self.weights.sum())) or 1.0

    def log_loss(self, temperature: float) -> float:
        """Mean of -log σ(gap / T) over the evidence."""
        lost = np.logaddexp(0, -self.gaps / temperature)
        return float(self.weights @ lost / self.weights.sum())


def temperature(
    scored: Sequence[Scored], seed: int = 0, evidence: Evidence = wins
) -> dict[str, Any]:
    """`value` is fitted on all held-out prompts. The figures before and after are by cross-fitting.

    Each fold of the prompts is judged with the temperature that the other folds ask for, so `after`
    is what to expect on new prompts.
    """
    used = [item for item in scored if evidence(item.group).any()]
    found = comparisons(used, evidence)
    if len(used) < max(FOLDS, FEW_PROMPTS) or len(found.gaps) < FEW_PAIRS:
        reason = f"A temperature needs {FEW_PROMPTS} held-out prompts and {FEW_PAIRS} comparisons."
        return {"value": None, "before": None, "after": None, "reason": reason}
    cooled = cross_fitted(used, seed, evidence)
    value = fit(found)
    before, after = found.log_loss(1.0), comparisons(cooled, evidence).log_loss(1.0)
    off, still_off = ece(used, evidence), ece(cooled, evidence)
    why = at_a_bound(value / found.typical_gap())
    if why is None and (after >= before or (still_off or 0.0) > (off or 0.0)):
        why = (
            "The fitted temperature made the probabilities no truer on prompts that it was not fitted "
            "on, so none is given."
        )
    return {
        "value": None if why else value,
        "before": {"ece": off, "log_loss": before},
        "after": {"ece": still_off, "log_loss": after},
        "folds": FOLDS,
        "reason": why,
    }


def at_a_bound(value: float) -> str | None:
    """Why no temperature is best, where the fit ran to an end of its range."""
    if value >= HOTTEST / 1.01:
        return "A wider gap in score was no surer sign here, so no temperature is best."
    if value <= COLDEST * 1.01:
        return "The model was right about every pair, so no temperature is best."
    return None


def cross_fitted(scored: Sequence[Scored], seed: int, evidence: Evidence = wins) -> list[Scored]:
    """Scores divided by a temperature that was fitted without their prompt."""
    folds = np.random.default_rng(seed).permutation(len(scored)) % FOLDS
    fitted = [
        fit(comparisons([s for s, f in zip(scored, folds, strict=True) if f != number], evidence))
        for number in range(FOLDS)
    ]
    return [
        replace(item, scores=item.scores / fitted[fold], heads=None)
        for item, fold in zip(scored, folds, strict=True)
    ]


def comparisons(scored: Sequence[Scored], evidence: Evidence = wins) -> Comparisons:
    gaps, weights = [np.zeros(0)], [np.zeros(0)]
    for item in scored:
        matrix = evidence(item.group)
        i, j = np.nonzero(matrix)
        gaps.append((item.scores[i] - item.scores[j]).astype(float))
        weights.append(matrix[i, j])
    return Comparisons(np.concatenate(gaps), np.concatenate(weights))


def fit(found: Comparisons) -> float:
    """The temperature of least log loss; convex in 1 / T, so golden sections find it."""
    scale = found.typical_gap()
    low, high = 1 / (HOTTEST * scale), 1 / (COLDEST * scale)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - golden * (high - low), low + golden * (high - low)
        if found.log_loss(1 / a) < found.log_loss(1 / b):
            high = b
        else:
            low = a
    return float(2 / (low + high))

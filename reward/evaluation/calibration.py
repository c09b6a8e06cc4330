"""Temperature scaling, so that σ((r_i - r_j) / T) is the probability that i wins. Pure numpy.

This is the method of Guo et al. 2017 (arXiv:1706.04599), applied to pairs. It does not change the
order of responses. The temperature is fitted on held-out prompts and evaluated by cross-fitting.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from recipes.preferences.groups import wins
from reward.evaluation.report import FEW_PAIRS, FEW_PROMPTS, Evidence, Scored, ece
from reward.evaluation.schema import Temperature

COLDEST, HOTTEST = 0.02, 50.0
"""The bounds of the temperature, in units of the typical gap in score.

The units are needed because the gap is small after little training.
"""
FOLDS = 5


@dataclass(frozen=True)
class Comparisons:
    """The gap in score and the weight of the wins, (n,) each, for each ordered pair with evidence."""

    gaps: np.ndarray
    weights: np.ndarray

    def typical_gap(self) -> float:
        """Return the root mean square of the gaps, or 1 if all scores are equal."""
        if not self.weights.sum():
            return 1.0
        return float(np.sqrt(self.weights @ self.gaps**2 / self.weights.sum())) or 1.0

    def log_loss(self, temperature: float) -> float:
        """Return the mean of -log σ(gap / T) over the evidence."""
        lost = np.logaddexp(0, -self.gaps / temperature)
        return float(self.weights @ lost / self.weights.sum())


def temperature(scored: Sequence[Scored], seed: int = 0, evidence: Evidence = wins) -> Temperature:
    """Fit a temperature on all held-out prompts, and return it with the errors before and after.

    The errors after scaling are cross-fitted: each fold of the prompts is scaled by the temperature
    of the other folds, so `after` estimates the errors on new prompts.
    """
    used = [item for item in scored if evidence(item.group).any()]
    pairs = comparisons(used, evidence)
    if len(used) < max(FOLDS, FEW_PROMPTS) or len(pairs.gaps) < FEW_PAIRS:
        reason = f"A temperature needs {FEW_PROMPTS} held-out prompts and {FEW_PAIRS} comparisons."
        return {"value": None, "before": None, "after": None, "reason": reason}
    cooled = cross_fitted(used, seed, evidence)
    value = fit(pairs)
    before, after = pairs.log_loss(1.0), comparisons(cooled, evidence).log_loss(1.0)
    ece_before, ece_after = ece(used, evidence), ece(cooled, evidence)
    why = at_a_bound(value / pairs.typical_gap())
    if why is None and (after >= before or (ece_after or 0.0) > (ece_before or 0.0)):
        why = (
            "The fitted temperature did not improve the probabilities on prompts that it was not "
            "fitted on, so none is given."
        )
    return {
        "value": None if why else value,
        "before": {"ece": ece_before, "log_loss": before},
        "after": {"ece": ece_after, "log_loss": after},
        "folds": FOLDS,
        "reason": why,
    }


def at_a_bound(value: float) -> str | None:
    """Return a reason if the fit ended at a bound of its range, where no temperature is best."""
    if value >= HOTTEST / 1.01:
        return "Larger gaps in score did not win more often here, so no temperature is best."
    if value <= COLDEST * 1.01:
        return "The model was right about every pair, so no temperature is best."
    return None


def cross_fitted(scored: Sequence[Scored], seed: int, evidence: Evidence = wins) -> list[Scored]:
    """Return the scores, each divided by a temperature that was fitted without its prompt."""
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


def fit(pairs: Comparisons) -> float:
    """Return the temperature with the lowest log loss.

    The loss is convex in 1 / T, so a golden-section search finds the minimum.
    """
    scale = pairs.typical_gap()
    low, high = 1 / (HOTTEST * scale), 1 / (COLDEST * scale)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - golden * (high - low), low + golden * (high - low)
        if pairs.log_loss(1 / a) < pairs.log_loss(1 / b):
            high = b
        else:
            low = a
    return float(2 / (low + high))

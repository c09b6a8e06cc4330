"""Confidence intervals for shares, shared by pages, commands and recipes. Does not import Django.

`wilson` is the score interval of Wilson, "Probable Inference, the Law of Succession, and Statistical
Inference" (JASA 22, 1927). `ShareSums` is the same interval for observations in clusters, such as the
pairs of one prompt. Its number of trials is the effective sample size, which is the number of
independent observations that would estimate the share with the same precision (Korn and Graubard,
"Analysis of Health Surveys", 1999, section 3.2; Franco et al., JSSAM 7, 2019, compare such intervals).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np

Z95 = 1.959963984540054
"""The standard normal quantile of a two-sided 95% interval."""

REPLICATES = 1000
MAX_BATCH_RESAMPLES = 2**22
"""Maximum number of bootstrap values in memory at a time."""

FEW_CLUSTERS = 10
"""With fewer clusters than this, each counts as one trial, because their variance is too uncertain."""


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Return the 95% interval for a share of `trials` observations, or 0 and 1 if there are none."""
    if not trials:
        return 0.0, 1.0
    spread = Z95 * Z95 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return round(max(0.0, centre - half), 12), round(min(1.0, centre + half), 12)


@dataclass
class ShareSums:
    """A share and its interval, computed from sums over clusters, which are added in any order."""

    clusters: int = 0
    agreeing: float = 0.0
    total: float = 0.0
    _agreeing_squared: float = 0.0
    _product: float = 0.0
    _total_squared: float = 0.0

    @classmethod
    def of(cls, rows: Iterable[tuple[float, float]]) -> "ShareSums":
        """Return the sums over clusters from one row (agreeing, total) per cluster."""
        sums = cls()
        for agreeing, total in rows:
            sums.add(agreeing, total)
        return sums

    def add(self, agreeing: float, total: float) -> None:
        """Add one cluster. A cluster without observations is ignored."""
        if total <= 0:
            return
        self.clusters += 1
        self.agreeing += agreeing
        self.total += total
        self._agreeing_squared += agreeing * agreeing
        self._product += agreeing * total
        self._total_squared += total * total

    @property
    def share(self) -> float | None:
        return self.agreeing / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95% interval, or 0 and 1 for fewer than two clusters."""
        if self.share is None or self.clusters < 2:
            return 0.0, 1.0
        return wilson(self.share, self._effective_size(self.share))

    def _effective_size(self, share: float) -> float:
        """Return the effective sample size: share·(1 − share) / variance of the ratio estimator."""
        squares = (
            self._agreeing_squared - 2 * share * self._product + share**2 * self._total_squared
        )
        variance = squares * self.clusters / (self.clusters - 1) / self.total**2
        if self.clusters < FEW_CLUSTERS or variance <= 1e-15:
            return self.clusters
        return max(1.0, share * (1 - share) / variance)


# --- bootstrap over clusters ----------------------------------------------------------------------


def share_interval(
    agreeing: np.ndarray, evidence: np.ndarray, seed: int
) -> tuple[list[float], str]:
    """Return the 95% interval of Σ agreeing / Σ evidence over clusters, and the name of the method.

    The method is a bootstrap over clusters. If there are few clusters, or all have the same share, it is
    Wilson's interval with each cluster as one trial.
    """
    share_of_each = agreeing / evidence
    if len(evidence) < FEW_CLUSTERS or np.ptp(share_of_each) == 0:
        return list(wilson(float(agreeing.sum() / evidence.sum()), len(evidence))), "wilson"
    ratios = []
    for counts in resamples(len(evidence), seed):
        ratios.extend((counts @ agreeing) / (counts @ evidence))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return [float(low), float(high)], "bootstrap"


def ratio_interval(sums: np.ndarray, sizes: np.ndarray, seed: int) -> list[float] | None:
    """Return the 95% bootstrap interval of Σ sums / Σ sizes over clusters, or None for one cluster."""
    if len(sizes) < 2:
        return None
    drawn = resamples(len(sizes), seed)  # (n, clusters) each
    ratios = np.concatenate([(counts @ sums) / (counts @ sizes) for counts in drawn])
    return [float(bound) for bound in np.quantile(ratios, [0.025, 0.975])]


def resamples(count: int, seed: int, replicates: int = REPLICATES) -> Iterator[np.ndarray]:
    """Yield how often each of `count` clusters is drawn in each replicate, in batches.

    → (n, count), with `replicates` rows in total
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, MAX_BATCH_RESAMPLES // count)
    for first in range(0, replicates, at_once):
        size = min(at_once, replicates - first)
        yield rng.multinomial(count, np.full(count, 1 / count), size=size)

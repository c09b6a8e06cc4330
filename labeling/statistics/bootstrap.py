"""Bootstrap intervals that resample whole clusters, so that dependent rows are drawn together.

This is Efron's percentile bootstrap, applied to clusters as in Davison and Hinkley, "Bootstrap Methods
and their Application" (1997), section 3.8.
"""

from collections.abc import Callable, Hashable, Iterable
from functools import cached_property

import numpy as np

RESAMPLES = 1000
MIN_CLUSTERS = 5
MAX_BATCH_NUMBERS = 4_000_000

Statistic = Callable[[np.ndarray], np.ndarray]  # (B, D) sums → (B,) values, NaN where undefined


class Bootstrap:
    """B resamples of C clusters, which are the same for all statistics."""

    def __init__(self, clusters: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.clusters = clusters
        self.resamples = resamples
        self.seed = seed

    def interval(
        self, sums: np.ndarray, statistic: Statistic, *, lowest: float, highest: float
    ) -> tuple[float, float]:
        """Return the 2.5% and 97.5% quantiles of a statistic of the clusters' `sums`, (C, D).

        With fewer than MIN_CLUSTERS clusters, return `lowest` and `highest`, because a few equal clusters
        would give an interval of width zero.
        """
        if np.count_nonzero(np.any(sums != 0, axis=1)) < MIN_CLUSTERS:
            return lowest, highest
        values = statistic(self.totals(sums))
        values = values[np.isfinite(values)]
        if not len(values):
            return lowest, highest
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)

    def totals(self, sums: np.ndarray) -> np.ndarray:
        """Return the total of each resample.  (C, D) → (B, D). Clusters of zeros take no time."""
        rows = np.flatnonzero(np.any(sums != 0, axis=1))
        if self.clusters * self.resamples <= MAX_BATCH_NUMBERS:
            return np.asarray(self._all_draws[rows].T @ sums[rows])
        return np.concatenate([weights[:, rows] @ sums[rows] for weights in self._draw()])

    @cached_property
    def _all_draws(self) -> np.ndarray:
        """Return all resamples.  → (C, B). In this layout, selecting clusters is fast."""
        return np.ascontiguousarray(np.concatenate(list(self._draw())).T)

    def _draw(self) -> Iterable[np.ndarray]:
        """Yield the number of times that each cluster is drawn, in batches of resamples.  → (b, C)"""
        rng = np.random.default_rng(self.seed)
        at_once = max(1, MAX_BATCH_NUMBERS // max(1, self.clusters))
        for start in range(0, self.resamples, at_once):
            rows = min(at_once, self.resamples - start)
            drawn = rng.integers(self.clusters, size=(rows, self.clusters))
            drawn += np.arange(rows)[:, None] * self.clusters
            weights = np.bincount(drawn.ravel(), minlength=rows * self.clusters)
            yield weights.reshape(rows, self.clusters).astype(float)


def number_keys(keys: Iterable[Hashable]) -> tuple[np.ndarray, int]:
    """Number the distinct keys from 0; return the number of each key, and how many are distinct."""
    number_of: dict[Hashable, int] = {}
    numbers = [number_of.setdefault(key, len(number_of)) for key in keys]
    return np.array(numbers, dtype=np.int64), len(number_of)


def by_cluster(rows: np.ndarray, cluster: np.ndarray, clusters: int) -> np.ndarray:
    """Return the sum of the rows in each cluster.  (M, D), (M,) → (C, D)"""
    columns = [np.bincount(cluster, column, clusters) for column in rows.T]
    return np.array(columns, dtype=float).reshape(len(columns), clusters).T


def ratio(totals: np.ndarray) -> np.ndarray:
    """Return the first column divided by the second, NaN where that is 0.  (B, 2) → (B,)"""
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals[..., 0] / np.where(totals[..., 1] == 0, np.nan, totals[..., 1])

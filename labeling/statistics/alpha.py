"""Krippendorff's alpha: 1 is perfect agreement, 0 is chance, below 0 is worse than chance.

Krippendorff, "Computing Krippendorff's Alpha-Reliability" (University of Pennsylvania, 2011). The
number of observers is arbitrary, and values may be missing. Values are numbered 0 … V−1 in order.
"""

from collections.abc import Sequence

import numpy as np

from labeling.statistics.pairs import runs_of

NOMINAL, ORDINAL, INTERVAL = "nominal", "ordinal", "interval"


def alpha(
    data: Sequence[Sequence[float | None]] | np.ndarray, metric: str = ORDINAL
) -> float | None:
    """Return alpha of values by observer (rows) and unit (columns), with None for missing ones.

    Return None if alpha is undefined: no unit has two values, or all values are equal.
    """
    table = np.array(data, dtype=float)
    unit, observer = np.nonzero(~np.isnan(table.T))
    scale, value = np.unique(table.T[unit, observer], return_inverse=True)
    if not len(unit):
        return None
    counted = coincidences(unit, value, len(scale)).sum(axis=0)
    result = float(alpha_of(counted, metric, scale))
    return result if np.isfinite(result) else None


def coincidences(unit: np.ndarray, value: np.ndarray, values: int) -> np.ndarray:
    """Return the coincidence matrix of each unit, weighted by its number of values.  → (U, V, V)

    `unit` is sorted. Units with fewer than two values have zeros.
    """
    starts, sizes = runs_of(unit)
    number = np.repeat(np.arange(len(starts)), sizes)
    counts = np.bincount(number * values + value, minlength=len(starts) * values)
    counts = counts.reshape(-1, values).astype(float)
    met = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(values)
    return met / np.maximum(sizes - 1, 1)[:, None, None]


def alpha_of(coincidence: np.ndarray, metric: str, scale: np.ndarray | None = None) -> np.ndarray:
    """Return alpha of coincidence matrices, NaN where undefined.  (…, V, V) → (…)

    alpha = 1 − (n − 1) · Σ o_ck δ²_ck / Σ n_c n_k δ²_ck. `scale` has the values for INTERVAL.
    """
    marginal = coincidence.sum(axis=-1)
    distance = _distance(marginal, metric, scale)
    total = marginal.sum(axis=-1)
    observed = (coincidence * distance).sum(axis=(-1, -2))
    expected = (marginal[..., :, None] * marginal[..., None, :] * distance).sum(axis=(-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = 1 - (total - 1) * observed / np.where(expected == 0, np.nan, expected)
    return np.asarray(alpha)


def _distance(marginal: np.ndarray, metric: str, scale: np.ndarray | None) -> np.ndarray:
    """Return δ² of every two values.  → (…, V, V)"""
    values = marginal.shape[-1]
    if metric == NOMINAL:
        return np.broadcast_to(1.0 - np.eye(values), (*marginal.shape, values))
    if metric == ORDINAL:
        # Σ n_g from c to k, minus half of both ends, is the distance between mid-ranks.
        position = np.cumsum(marginal, axis=-1) - marginal / 2
    elif metric == INTERVAL:
        position = np.broadcast_to(np.arange(values) if scale is None else scale, marginal.shape)
    else:
        raise ValueError(f"Unknown metric {metric!r}; use nominal, ordinal or interval.")
    return np.asarray((position[..., :, None] - position[..., None, :]) ** 2, dtype=float)


def either_way(coincidence: np.ndarray) -> np.ndarray:
    """Symmetrise coincidences of opposite values (−1, 0, 1), for pairs without a first and second.

    Which of two responses comes first is arbitrary. Each pair counts half in either direction, so that
    alpha does not depend on this choice. n is unchanged.
    """
    return (coincidence + coincidence[..., ::-1, ::-1]) / 2

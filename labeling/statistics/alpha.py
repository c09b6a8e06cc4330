"""Krippendorff's alpha: 1 is perfect agreement, 0 is chance, below 0 is worse than chance.

See Krippendorff, "Computing Krippendorff's Alpha-Reliability" (University of Pennsylvania, 2011). There
may be any number of observers, and values may be missing. Values are numbered 0 … V−1 in ascending
order.
"""

from collections.abc import Sequence

import numpy as np

from labeling.statistics.pairs import runs_of

NOMINAL, ORDINAL, INTERVAL = "nominal", "ordinal", "interval"


def alpha(
    data: Sequence[Sequence[float | None]] | np.ndarray, metric: str = ORDINAL
) -> float | None:
    """Return alpha for a table of values with a row per observer, a column per unit and None for gaps.

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

    `unit` must be sorted. The matrix of a unit with fewer than two values is zero.
    """
    starts, sizes = runs_of(unit)
    number = np.repeat(np.arange(len(starts)), sizes)
    counts = np.bincount(number * values + value, minlength=len(starts) * values)
    counts = counts.reshape(-1, values).astype(float)
    met = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(values)
    return met / np.maximum(sizes - 1, 1)[:, None, None]


def alpha_of(coincidence: np.ndarray, metric: str, scale: np.ndarray | None = None) -> np.ndarray:
    """Return alpha for coincidence matrices, NaN where it is undefined.  (…, V, V) → (…)

    alpha = 1 − (n − 1) · Σ o_ck δ²_ck / Σ n_c n_k δ²_ck. `scale` contains the values, for INTERVAL only.
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
    """Return δ², the squared distance between every two values.  → (…, V, V)"""
    values = marginal.shape[-1]
    if metric == NOMINAL:
        return np.broadcast_to(1.0 - np.eye(values), (*marginal.shape, values))
    if metric == ORDINAL:
        # The distance between the mid-ranks of c and k is Σ n_g from c to k, minus half of n_c and n_k.
        position = np.cumsum(marginal, axis=-1) - marginal / 2
    elif metric == INTERVAL:
        position = np.broadcast_to(np.arange(values) if scale is None else scale, marginal.shape)
    else:
        raise ValueError(f"Unknown metric {metric!r}; use nominal, ordinal or interval.")
    return np.asarray((position[..., :, None] - position[..., None, :]) ** 2, dtype=float)


def either_way(coincidence: np.ndarray) -> np.ndarray:
    """Make coincidences of the values −1, 0 and 1 independent of which response comes first in a pair.

    That choice is arbitrary, so each pair counts half in each direction. The total n does not change.
    """
    return (coincidence + coincidence[..., ::-1, ::-1]) / 2

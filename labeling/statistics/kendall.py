"""Kendall's tau-b, a rank correlation with ties: 1 for the same order, −1 for the reverse.

Kendall, "The treatment of ties in ranking problems" (Biometrika 33, 1945):
tau-b = S / √(pairs untied in one · pairs untied in the other).
"""

from collections.abc import Sequence

import numpy as np


def tau_b(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Return tau-b of two variables, or None if one of them has only ties."""
    first, second = np.triu_indices(len(one), k=1)
    x, y = np.asarray(one, dtype=float), np.asarray(two, dtype=float)
    by_one, by_two = np.sign(x[second] - x[first]), np.sign(y[second] - y[first])
    tau = tau_of((by_one * by_two).sum(), (by_one != 0).sum(), (by_two != 0).sum())
    return float(tau) if np.isfinite(tau) else None


def tau_of(score: np.ndarray, untied_one: np.ndarray, untied_two: np.ndarray) -> np.ndarray:
    """Return tau-b from concordant minus discordant pairs and untied pairs; NaN if undefined."""
    product = np.asarray(untied_one, dtype=float) * untied_two
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(score / np.sqrt(np.where(product == 0, np.nan, product)))

"""Kendall's tau-b, a rank correlation with ties: 1 for the same order, −1 for the reverse.

Kendall, "The treatment of ties in ranking problems" (Biometrika 33, 1945):
tau-b = S / √(pairs untied in the first · pairs untied in the second).
"""

from collections.abc import Sequence

import numpy as np


def tau_b(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the tau-b of two variables, or None if all values of one of them are tied."""
    i, j = np.triu_indices(len(first), k=1)
    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    first_signs, second_signs = np.sign(x[j] - x[i]), np.sign(y[j] - y[i])
    tau = tau_of(
        (first_signs * second_signs).sum(), (first_signs != 0).sum(), (second_signs != 0).sum()
    )
    return float(tau) if np.isfinite(tau) else None


def tau_of(score: np.ndarray, untied_first: np.ndarray, untied_second: np.ndarray) -> np.ndarray:
    """Return tau-b, or NaN where it is undefined.

    `score` is the number of concordant pairs minus that of discordant ones.
    """
    product = np.asarray(untied_first, dtype=float) * untied_second
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(score / np.sqrt(np.where(product == 0, np.nan, product)))

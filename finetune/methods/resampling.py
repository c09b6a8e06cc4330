"""Resampling of pairs by weight, which decides how often DPO shows each. Pure numpy."""

import numpy as np


def draw(weights: np.ndarray, seed: int) -> np.ndarray:
    """Return N indices, ascending, each as often as its weight says.  (N,) → (N,) int64

    Systematic resampling (Kitagawa 1996): an index with w times the mean weight is drawn ⌊w⌋ or ⌈w⌉
    times, and w times in expectation, so equal weights give each index exactly once. This gives DPO
    weighted pairs without a weighted loss.
    """
    start = np.random.default_rng(seed).random()
    edges = np.cumsum(weights) / np.sum(weights) * len(weights)
    edges[-1] = len(weights)
    return np.searchsorted(edges - 1e-9, start + np.arange(len(weights)), side="right").clip(
        max=len(weights) - 1
    )

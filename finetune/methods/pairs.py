"""From rankings to the pairs that DPO learns from. Pure numpy.

A pair is strict: over all reviewers, more evidence says that one response is better than the other
than the reverse. Ties teach DPO nothing, and are counted, not used.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from recipes.preferences.groups import Group, wins


@dataclass(frozen=True)
class Pair:
    """Places in the group's responses. `weight` is the net evidence, `margin` its share of all."""

    chosen: int
    rejected: int
    weight: float
    margin: float


LeftOut = Counter[tuple[str, str, str]]
"""(split, what, why) → how many, as `recipes.preferences.tokens.Prepared` keeps it."""


def strict_pairs(group: Group, left_out: LeftOut) -> list[Pair]:
    """Every pair of the group with a winner, the clearest first.

    Clearest: the largest margin, then the most net evidence, then the largest difference between
    the two responses' shares of wins over the whole group. The order is total, so it never depends
    on chance.
    """
    matrix = wins(group)  # (K, K)
    standing = matrix.sum(axis=1) - matrix.sum(axis=0)  # (K,)
    pairs = []
    for i, j in combinations(range(len(matrix)), 2):
        evidence, net = matrix[i, j] + matrix[j, i], matrix[i, j] - matrix[j, i]
        if evidence == 0:
            left_out[group.split, "pairs", "not compared by any reviewer"] += 1
        elif net == 0:
            left_out[group.split, "pairs", "tied"] += 1
        elif group.responses[i].strip() == group.responses[j].strip():
            left_out[group.split, "pairs", "both responses are the same text"] += 1
        else:
            better, worse = (i, j) if net > 0 else (j, i)
            pairs.append(Pair(better, worse, float(abs(net)), float(abs(net) / evidence)))

    def unclear(pair: Pair) -> tuple[float, ...]:
        gap = standing[pair.chosen] - standing[pair.rejected]
        return (-pair.margin, -pair.weight, -gap, pair.chosen, pair.rejected)

    return sorted(pairs, key=unclear)


def select(
    group: Group, pairs: Iterable[Pair], left_out: LeftOut, *, min_margin: float, at_most: int
) -> list[Pair]:
    """The pairs to train on, of those given in order of clarity."""
    pairs = list(pairs)
    clear = [pair for pair in pairs if pair.margin >= min_margin]
    if len(clear) < len(pairs):
        left_out[group.split, "pairs", f"margin under {min_margin:g}"] += len(pairs) - len(clear)
    if len(clear) > at_most:
        why = f"beyond {at_most} pairs of one prompt"
        left_out[group.split, "pairs", why] += len(clear) - at_most
    return clear[:at_most]


def draw(weights: np.ndarray, seed: int) -> np.ndarray:
    """As many places as there are weights, each as often as its weight says.  → (N,) int64, ascending

    Systematic resampling (Kitagawa 1996): a weight of w times the mean is drawn ⌊w⌋ or ⌈w⌉ times,
    and w times in expectation, so equal weights give each place exactly once. This gives DPO
    weighted pairs without a weighted loss.
    """
    start = np.random.default_rng(seed).random()
    edges = np.cumsum(weights) / np.sum(weights) * len(weights)
    edges[-1] = len(weights)
    return np.searchsorted(edges - 1e-9, start + np.arange(len(weights)), side="right").clip(
        max=len(weights) - 1
    )

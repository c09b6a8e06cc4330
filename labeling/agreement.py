"""How often reviewers say the same, with intervals. Pure Python and numpy: recipes use it too.

A ranking is read as what it says about each pair of responses: better, worse or tied. Two
rankings of a task are compared on the pairs that both placed. Judgments of one task hang together,
so the interval resamples whole tasks (or whatever `clusters` names), never single pairs.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Tiers = Sequence[Sequence[int]]
Outcomes = np.ndarray  # (pairs, 2) int8; +1: the first of the pair is better, 0: tied, −1: worse

RESAMPLES = 1000
RESAMPLED_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Agreement:
    """A share between 0 and 1 with its 95 % interval; `value` is None when `reason` says why.

    `pairs` counts the compared pairs of responses, once for every two reviewers.
    """

    value: float | None
    low: float | None
    high: float | None
    pairs: int
    reason: str = ""


def pair_outcomes(a: Tiers, b: Tiers) -> Outcomes:
    """What two rankings say about every pair of responses that both placed.  → (pairs, 2) int8

    Pairs come in the order of `combinations` over the shared ids, ascending.
    """
    places_a, places_b = _places(a), _places(b)
    shared = sorted(places_a.keys() & places_b.keys())
    places = np.array([[places_a[i], places_b[i]] for i in shared], dtype=np.int64).reshape(-1, 2)
    first, second = np.triu_indices(len(shared), k=1)
    return np.sign(places[second] - places[first]).astype(np.int8)


def _places(tiers: Tiers) -> dict[int, int]:
    return {response: place for place, tier in enumerate(tiers) for response in tier}


def pair_agreement(
    groups: Iterable[Sequence[Tiers]],
    *,
    clusters: Iterable[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """Share of compared pairs on which two reviewers say exactly the same of <, = and >.

    Each item of `groups` holds the rankings of one task by different reviewers. `clusters`, one
    key a group, joins groups that hang together (the tasks of one prompt) for the interval.
    """
    reason = "No two reviewers ranked the same responses."
    return _share(groups, _same, reason, clusters, resamples, seed)


def strict_agreement(
    groups: Iterable[Sequence[Tiers]],
    *,
    clusters: Iterable[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """Share of same direction among the pairs that two reviewers both ordered strictly.

    The ceiling for a model's accuracy on strict pairs. Arguments as for `pair_agreement`.
    """
    reason = "No two reviewers both ordered the same pair without a tie."
    return _share(groups, _same_direction, reason, clusters, resamples, seed)


Counts = tuple[int, int]  # pairs agreed on, pairs compared


def _same(outcomes: Outcomes) -> Counts:
    return int((outcomes[:, 0] == outcomes[:, 1]).sum()), len(outcomes)


def _same_direction(outcomes: Outcomes) -> Counts:
    strict = outcomes[(outcomes != 0).all(axis=1)]
    return _same(strict)


def _share(
    groups: Iterable[Sequence[Tiers]],
    count: Callable[[Outcomes], Counts],
    reason: str,
    clusters: Iterable[Hashable] | None,
    resamples: int,
    seed: int,
) -> Agreement:
    counts = _by_cluster([_count_group(group, count) for group in groups], clusters)
    counts = counts[counts[:, 1] > 0]
    agreed, compared = (int(total) for total in counts.sum(axis=0))
    if not compared:
        return Agreement(None, None, None, 0, reason)
    low, high = _interval(counts, resamples, seed)
    return Agreement(agreed / compared, low, high, compared)


def _count_group(group: Sequence[Tiers], count: Callable[[Outcomes], Counts]) -> Counts:
    counted = [count(pair_outcomes(a, b)) for a, b in combinations(group, 2)]
    return sum(agreed for agreed, _ in counted), sum(compared for _, compared in counted)


def _by_cluster(counts: list[Counts], clusters: Iterable[Hashable] | None) -> np.ndarray:
    """→ (clusters, 2) int64; raises ValueError when there is not one key for each group"""
    if clusters is None:
        return np.array(counts, dtype=np.int64).reshape(-1, 2)
    sums: dict[Hashable, list[int]] = {}
    for key, (agreed, compared) in zip(clusters, counts, strict=True):
        total = sums.setdefault(key, [0, 0])
        total[0] += agreed
        total[1] += compared
    return np.array(list(sums.values()), dtype=np.int64).reshape(-1, 2)


def _interval(counts: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The 2.5 % and 97.5 % points of the share when clusters are drawn anew with replacement.

    One cluster says nothing about the next: the interval is then 0 to 1.
    """
    if len(counts) == 1:
        return 0.0, 1.0
    rng = np.random.default_rng(seed)
    drawn_at_once = max(1, RESAMPLED_AT_ONCE // len(counts))
    shares: list[np.ndarray] = []
    for start in range(0, resamples, drawn_at_once):
        rows = min(drawn_at_once, resamples - start)
        sums = counts[rng.integers(len(counts), size=(rows, len(counts)))].sum(axis=1)
        shares.append(sums[:, 0] / sums[:, 1])
    low, high = np.quantile(np.concatenate(shares), [0.025, 0.975])
    return float(low), float(high)

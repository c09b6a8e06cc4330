"""Pairs of reviewers who ranked the same task, each with a 3×3 table of their judgments.

Every measure of agreement is a sum over these tables, so its value for one reviewer or one week is the
sum over some of the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from labeling.statistics.kendall import tau_of
from labeling.statistics.pairs import Pairs, Tiers, index_pairs


@dataclass(frozen=True)
class ReviewerPairs:
    """M pairs of reviewers. The axes of a table are the judgments −1, 0, +1 by `first` and `second`.

    In `shares`, each pair of responses has the weight 1/(m − 1), where m is the number of reviewers who
    judged the pair. The sum of `shares` and its transpose is the coincidence matrix of Krippendorff's
    alpha.
    """

    task: np.ndarray  # (M,) index into the tasks
    first: np.ndarray  # (M,) index into the reviewers
    second: np.ndarray  # (M,)
    rankings: np.ndarray  # (M, 2) indices of the rankings of first and second
    table: np.ndarray  # (M, 3, 3) counts of pairs
    shares: np.ndarray  # (M, 3, 3)

    def __len__(self) -> int:
        return len(self.task)

    def select(self, rows: np.ndarray) -> "ReviewerPairs":
        return ReviewerPairs(
            self.task[rows],
            self.first[rows],
            self.second[rows],
            self.rankings[rows],
            self.table[rows],
            self.shares[rows],
        )

    @property
    def compared(self) -> np.ndarray:
        return self.table.sum(axis=(1, 2))

    @property
    def same(self) -> np.ndarray:
        return np.trace(self.table, axis1=1, axis2=2)

    @property
    def strict(self) -> np.ndarray:
        """Return the number of pairs that both reviewers ordered, without a tie."""
        return self.table[:, ::2, ::2].sum(axis=(1, 2))

    @property
    def strict_same(self) -> np.ndarray:
        return self.table[:, 0, 0] + self.table[:, 2, 2]

    @property
    def tau(self) -> np.ndarray:
        """Return Kendall's tau-b of both rankings, NaN if one of them ties everything."""
        untied_first = self.compared - self.table[:, 1, :].sum(axis=1)
        untied_second = self.compared - self.table[:, :, 1].sum(axis=1)
        return tau_of(2 * self.strict_same - self.strict, untied_first, untied_second)

    @property
    def distance(self) -> np.ndarray:
        """Return the distance of both rankings, from 0 for equal to 1 for opposite orders.

        A pair that only one of them ties counts half.
        """
        apart = np.abs(np.arange(3)[:, None] - np.arange(3)) / 2
        return (self.table * apart).sum(axis=(1, 2)) / self.compared


def reviewer_pairs(pairs: Pairs) -> ReviewerPairs:
    """Return every two reviewers of each task.

    The time is linear in the number of comparisons: one per pair of responses and two reviewers.
    """
    first, second = index_pairs(pairs.pair)
    judged = np.bincount(pairs.pair, minlength=len(pairs))[pairs.pair[first]]
    task = pairs.task[pairs.pair[first]]
    rankings = int(pairs.ranking.max(initial=0)) + 1
    key = pairs.ranking[first] * rankings + pairs.ranking[second]
    _, at, number = np.unique(key, return_index=True, return_inverse=True)
    cell = (pairs.outcome[first].astype(np.int64) + 1) * 3 + pairs.outcome[second] + 1
    code, size = number * 9 + cell, len(at) * 9
    return ReviewerPairs(
        task=task[at],
        first=pairs.reviewer[first][at],
        second=pairs.reviewer[second][at],
        rankings=np.column_stack([pairs.ranking[first][at], pairs.ranking[second][at]]),
        table=np.bincount(code, minlength=size).reshape(-1, 3, 3),
        shares=np.bincount(code, 1 / np.maximum(judged - 1, 1), size).reshape(-1, 3, 3),
    )


def mean_distance(rankings: Sequence[Tiers]) -> float:
    """Return the mean distance of every two rankings of a task, from 0 to 1.

    It is the mean of `ReviewerPairs.distance`, weighted by the number of pairs that both rankings
    contain, or 0 if they contain none. This is plain Python, because arrays are ten times slower for so
    few responses.
    """
    rank_maps = [{i: rank for rank, tier in enumerate(tiers) for i in tier} for tiers in rankings]
    differences = compared = 0
    for first, second in combinations(rank_maps, 2):
        for a, b in combinations(first.keys() & second.keys(), 2):
            differences += abs(_sign(first[a] - first[b]) - _sign(second[a] - second[b]))
            compared += 1
    return differences / (2 * compared) if compared else 0.0


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)

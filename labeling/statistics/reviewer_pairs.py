"""Pairs of reviewers of one task, each with a 3×3 table of their judgments of its responses.

Every measure of agreement is a sum over such tables, so a breakdown by reviewer or week selects
rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from labeling.statistics.kendall import tau_of
from labeling.statistics.pairs import Pairs, Tiers, index_pairs


@dataclass(frozen=True)
class ReviewerPairs:
    """M pairs of reviewers. The axes of a table are the judgments of `first` and `second`: −1, 0, +1.

    `shares` is the table with each pair weighted by 1/(m − 1), where m reviewers judged it. Added to
    its transpose, it is the coincidence matrix of Krippendorff's alpha.
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
        """Return the number of pairs that both ordered."""
        return self.table[:, ::2, ::2].sum(axis=(1, 2))

    @property
    def strict_same(self) -> np.ndarray:
        return self.table[:, 0, 0] + self.table[:, 2, 2]

    @property
    def tau(self) -> np.ndarray:
        """Return Kendall's tau-b of the two rankings, NaN if one of them ties everything."""
        untied_first = self.compared - self.table[:, 1, :].sum(axis=1)
        untied_second = self.compared - self.table[:, :, 1].sum(axis=1)
        return tau_of(2 * self.strict_same - self.strict, untied_first, untied_second)

    @property
    def distance(self) -> np.ndarray:
        """Return 0 for the same order, 1 for the reverse; a tie against an order counts half."""
        apart = np.abs(np.arange(3)[:, None] - np.arange(3)) / 2
        return (self.table * apart).sum(axis=(1, 2)) / self.compared


def reviewer_pairs(pairs: Pairs) -> ReviewerPairs:
    """Return all pairs of reviewers with a common task.

    The cost is linear in the number of response pairs times the reviewer pairs per response pair.
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
    """Return the mean distance of the rankings of one task, over pairs of responses: 0 to 1.

    It is the mean distance of `ReviewerPairs`, weighted by the number of pairs that both rankings
    compare. Return 0 when no pair was compared twice. Plain Python is ten times as fast as arrays for the few
    responses of a task.
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

"""Rankings as judgments of pairs of responses, in flat numpy arrays.

A pair consists of two responses in one task, the smaller id first. Each ranking that contains both of
them judges the pair: +1 if the first is better, 0 if they are tied, −1 if the second is better.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Tiers = Sequence[Sequence[int]]


class Judgment(NamedTuple):
    """A reviewer's ranking of a task. Both are identified by any hashable value."""

    task: Hashable
    reviewer: Hashable
    tiers: Tiers


@dataclass(frozen=True)
class Pairs:
    """P pairs of responses and N judgments of these pairs, sorted by pair and then by ranking.

    Tasks and reviewers are numbered in order of appearance.
    """

    tasks: list[Any]
    reviewers: list[Any]
    first: np.ndarray  # (P,) response ids
    second: np.ndarray  # (P,)
    task: np.ndarray  # (P,) index into tasks
    pair: np.ndarray  # (N,) index of the pair
    reviewer: np.ndarray  # (N,) index into reviewers
    outcome: np.ndarray  # (N,) int8
    ranking: np.ndarray  # (N,) index of the ranking

    def __len__(self) -> int:
        return len(self.first)


def expand(judgments: Iterable[Judgment]) -> Pairs:
    """Return the pairs in these rankings, with their judgments. K responses have K(K−1)/2 pairs.

    The time is linear in the number of judgments: 100,000 rankings of four responses take less than two
    seconds.
    """
    tasks: dict[Any, int] = {}
    reviewers: dict[Any, int] = {}
    by_size: dict[int, list[tuple[int, int, int, list[int], list[int]]]] = defaultdict(list)
    for number, (task, reviewer, tiers) in enumerate(judgments):
        ids = [response for tier in tiers for response in tier]
        places = [index for index, tier in enumerate(tiers) for _ in tier]
        task_index = tasks.setdefault(task, len(tasks))
        reviewer_index = reviewers.setdefault(reviewer, len(reviewers))
        by_size[len(ids)].append((number, task_index, reviewer_index, ids, places))
    parts = [_statements(rows) for size, rows in by_size.items() if size > 1]
    columns = np.concatenate(parts, axis=1) if parts else np.zeros((6, 0), dtype=np.int64)
    return _numbered(list(tasks), list(reviewers), columns)


def _statements(rows: list[tuple[int, int, int, list[int], list[int]]]) -> np.ndarray:
    """Return the ranking, task, reviewer, first id, second id and outcome of each judgment.  → (6, n)

    All rankings must have the same number of responses.
    """
    about = np.array([row[:3] for row in rows], dtype=np.int64)
    ids = np.array([row[3] for row in rows], dtype=np.int64)
    order = np.argsort(ids, axis=1)
    ids = np.take_along_axis(ids, order, axis=1)
    places = np.take_along_axis(np.array([row[4] for row in rows]), order, axis=1)
    i, j = np.triu_indices(ids.shape[1], k=1)
    return np.concatenate(
        [
            np.repeat(about, len(i), axis=0).T,
            [ids[:, i].ravel(), ids[:, j].ravel()],
            [np.sign(places[:, j] - places[:, i]).ravel()],
        ]
    )


def _numbered(tasks: list[Any], reviewers: list[Any], columns: np.ndarray) -> Pairs:
    ranking, task, reviewer, first, second, outcome = columns
    _, low = np.unique(first, return_inverse=True)
    _, high = np.unique(second, return_inverse=True)
    _, couple = np.unique(low * (high.max(initial=0) + 1) + high, return_inverse=True)
    key = task * (couple.max(initial=0) + 1) + couple
    _, at, pair = np.unique(key, return_index=True, return_inverse=True)
    order = np.lexsort((ranking, pair))
    return Pairs(
        tasks=tasks,
        reviewers=reviewers,
        first=first[at],
        second=second[at],
        task=task[at],
        pair=pair[order],
        reviewer=reviewer[order],
        outcome=outcome[order].astype(np.int8),
        ranking=ranking[order],
    )


def index_pairs(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all i < j with group[i] == group[j]. `group` must be sorted.  → two (M,)"""
    starts, sizes = runs_of(group)
    first, second = [], []
    for size in np.unique(sizes[sizes > 1]):
        i, j = np.triu_indices(size, k=1)
        begin = starts[sizes == size][:, None]
        first.append((begin + i).ravel())
        second.append((begin + j).ravel())
    nothing = np.zeros(0, dtype=np.int64)
    return np.concatenate([nothing, *first]), np.concatenate([nothing, *second])


def runs_of(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start and the length of each run of equal values in a sorted array."""
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else group[:0]
    return starts, np.diff(np.r_[starts, len(group)])

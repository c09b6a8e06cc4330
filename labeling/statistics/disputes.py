"""Disputed tasks: those with more disagreement than the usual noise explains. Pure numpy.

A task has two statistics, computed from τ = 1 − 2·distance for every two of its rankings. The
distance of two rankings is 0 for the same order and 1 for the reverse. A tie against an order counts
as half a pair.

- The mean distance detects general disagreement.
- The gain of reversing, for three rankings or more, detects two groups of reviewers with opposite
  orders. It is the largest increase of the mean τ when the rankings of a subset of reviewers are
  reversed. It is 0 without disagreement and small for noise. For two opposite groups, it increases
  with each ranking.

The null model is that of Thurstone, "A Law of Comparative Judgment" (Psychological Review 34, 1927):
each reviewer perceives the worth of each response with independent normal noise, and ranks the
responses by perceived worth. If ρ is the correlation of two reviewers' perceptions, they order a pair
in opposite ways with probability arccos(ρ)/π. So the usual rate of disagreement, estimated over the
project and for each reviewer, determines the ρ of a task. The distribution of both statistics is
simulated for its number of responses and rankings. Responses that are close in worth are part of the
model, so they alone do not make a dispute.

The p-value of a task is twice the smaller share of simulated tasks whose statistic is as extreme
(Bonferroni), or the share itself for two rankings, which have one statistic. If the bulk of the tasks
has a wider distribution than the model, all are scaled to it (the empirical null of Efron,
"Large-Scale Simultaneous Hypothesis Testing", JASA 99, 2004). Disputed tasks are those that pass the
procedure of Benjamini and Hochberg (JRSS B 57, 1995): at most 10% of them are expected to be noise.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi
from statistics import NormalDist
from typing import Any

import numpy as np

from labeling.statistics.reviewer_pairs import ReviewerPairs

FALSE_DISCOVERIES = 0.1
"""Expected share of noise among the disputed tasks."""
USUAL = 0.27
"""The rate of disagreement assumed until a project has an estimate: the labelers of Ouyang et al.,
"Training language models to follow instructions with human feedback" (2022), agreed on 73%."""
LEARNED_FROM = 30
"""Minimum number of tasks with two rankings to estimate a project's own rate."""
SHRUNK_BY = 10
"""Weight of the project's rate in a reviewer's, in tasks."""
SIMULATED = 20_000
"""Simulated tasks for each combination of responses, rankings and ρ. No p-value is below 1/20,001."""
BATCH_SIZE = 4_000
"""Tasks simulated at a time, to bound the memory."""
MAX_RANKINGS = 9
"""Rankings of a task whose reversal is tried, because each one doubles the number of subsets. The table
for this number also serves tasks with more rankings."""
STEP = 0.05
"""ρ is rounded to a multiple of it, so that few combinations have to be simulated."""
BULK = 0.8
"""Share of the tasks, those with the smallest distances, whose spread is compared with the model's."""
ROUNDS = 2
"""The usual rate is estimated from all tasks, and then again without the disputed tasks."""
NORMAL = NormalDist()


@dataclass(frozen=True)
class Verdicts:
    """One entry for each task with two rankings or more; all arrays (T,)."""

    tasks: list[Any]
    distance: np.ndarray
    rankings: np.ndarray
    p_value: np.ndarray
    disputed: np.ndarray  # bool
    usual: float
    learned: bool
    """Whether `usual` was estimated from the project."""

    def __len__(self) -> int:
        return len(self.tasks)


def verdicts(tasks: list[Any], reviewer_pairs: ReviewerPairs) -> Verdicts:
    """Test each task with two rankings or more. `tasks` are the names of the numbered tasks.

    Takes about 0.1 s for 1,000 tasks of four responses, and once per process about 0.1 s for each new
    combination of responses, rankings and ρ.
    """
    tested = _tasks(reviewer_pairs)
    usual, learned = USUAL, len(tested) >= LEARNED_FROM
    p_value = np.ones(len(tested))
    undisputed = np.ones(len(tested), dtype=bool)
    for _ in range(ROUNDS if learned else 1):
        rho, usual = _correlations(reviewer_pairs, tested, undisputed, learned)
        p_value = _p_values(tested, rho, rescale=learned)
        undisputed = ~rejected_hypotheses(p_value)
    return Verdicts(
        [tasks[task] for task in tested.number],
        tested.distance,
        tested.rankings,
        p_value,
        ~undisputed & (tested.distance > 0),
        usual,
        learned,
    )


def rejected_hypotheses(p_value: np.ndarray, rate: float = FALSE_DISCOVERIES) -> np.ndarray:
    """Return whether the Benjamini–Hochberg procedure rejects each hypothesis.  → (T,) bool"""
    order = np.argsort(p_value)
    passes = p_value[order] <= rate * np.arange(1, len(order) + 1) / max(1, len(order))
    last = np.flatnonzero(passes)
    rejected = np.zeros(len(order), dtype=bool)
    if len(last):
        rejected[order[: last[-1] + 1]] = True
    return rejected


# --- the tasks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tasks:
    """T tasks with two rankings or more, and M pairs of their reviewers."""

    number: np.ndarray  # (T,) as in ReviewerPairs.task
    of_pair: np.ndarray  # (M,) the index of the task of each pair of reviewers
    responses: np.ndarray  # (T,) compared by a pair of reviewers on average, at least 2
    rankings: np.ndarray  # (T,)
    distance: np.ndarray  # (T,) the mean over compared pairs of responses
    gain: np.ndarray  # (T,) the gain of reversing; 0 for two rankings

    def __len__(self) -> int:
        return len(self.number)


def _tasks(reviewer_pairs: ReviewerPairs) -> _Tasks:
    """Return the tasks of the pairs of reviewers with both statistics."""
    number, of_pair = np.unique(reviewer_pairs.task, return_inverse=True)
    compared, pair_count = np.bincount(of_pair, reviewer_pairs.compared), np.bincount(of_pair)
    apart = np.bincount(of_pair, reviewer_pairs.distance * reviewer_pairs.compared)
    # n pairs are the pairs of (1 + √(1 + 8n)) / 2 responses. Rounded down, with a margin for floats.
    responses = (1 + np.sqrt(1 + 8 * compared / np.maximum(pair_count, 1))) / 2 + 1e-9
    rankings, index = _rankings_in_tasks(of_pair, reviewer_pairs.rankings)
    return _Tasks(
        number,
        of_pair,
        np.maximum(responses.astype(int), 2),
        rankings,
        apart / np.maximum(compared, 1),
        _gains(of_pair, index, rankings, 1 - 2 * reviewer_pairs.distance),
    )


def _rankings_in_tasks(of_pair: np.ndarray, rankings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of rankings of each task, and each ranking's index among those of its task.

    (M,) and (M, 2)  → (T,) and (2, M)
    """
    task, size = np.r_[of_pair, of_pair], rankings.max(initial=0) + 1  # (2M,)
    ranking, number = np.unique(task * size + rankings.T.ravel(), return_inverse=True)
    task_of_ranking = ranking // size
    index = number - np.searchsorted(task_of_ranking, task)
    return np.bincount(task_of_ranking, minlength=of_pair.max(initial=-1) + 1), index.reshape(2, -1)


def _gains(
    of_pair: np.ndarray, index: np.ndarray, rankings: np.ndarray, tau: np.ndarray
) -> np.ndarray:
    """Return the gain of reversing of each task.  (M,), (2, M), (T,) and (M,)  → (T,)

    Tasks with the same number of rankings are computed together.
    """
    gain = np.zeros(len(rankings))
    for count in np.unique(rankings[rankings > 2]):
        tasks = np.flatnonzero(rankings == count)
        row = np.full(len(rankings), -1)
        row[tasks] = np.arange(len(tasks))
        pairs = np.flatnonzero(row[of_pair] >= 0)
        taus = np.zeros((len(tasks), count, count))
        taus[row[of_pair[pairs]], index[0, pairs], index[1, pairs]] = tau[pairs]
        tried = min(int(count), MAX_RANKINGS)
        gain[tasks] = gain_of_reversing(taus[:, :tried, :tried])
    return gain


def gain_of_reversing(taus: np.ndarray) -> np.ndarray:
    """Return the largest increase of the mean τ when some of the rankings are reversed.

    (T, R, R), of which only the part above the diagonal is read  → (T,), at least 0
    """
    first, second = np.triu_indices(taus.shape[1], k=1)
    above = taus[:, first, second]  # (T, P)
    return (above @ _signs(taus.shape[1])).max(axis=1) - above.mean(axis=1)


@lru_cache(maxsize=MAX_RANKINGS)
def _signs(rankings: int) -> np.ndarray:
    """Return the sign of each pair of rankings for each split in two, divided by the number of pairs.

    The sign is +1 within a part and −1 across.  → (P, 2^(R − 1))
    """
    splits = np.arange(2 ** (rankings - 1))[:, None] >> np.arange(rankings) & 1
    first, second = np.triu_indices(rankings, k=1)
    same = np.where(splits[:, first] == splits[:, second], 1.0, -1.0)
    return np.ascontiguousarray(same.T) / len(first)


# --- the usual noise -----------------------------------------------------------------------------


def _correlations(
    reviewer_pairs: ReviewerPairs, tested: _Tasks, undisputed: np.ndarray, learned: bool
) -> tuple[np.ndarray, float]:
    """Return ρ of each task, and the usual rate of disagreement over the tasks that are `undisputed`."""
    if not learned or not undisputed.any():
        return np.full(len(tested), cos(pi * USUAL)), USUAL
    usual = float(tested.distance[undisputed].mean())
    typical = max(0.0, cos(pi * min(usual, 0.5))) ** 0.5  # a reviewer's correlation with the worth
    pair_count = np.bincount(tested.of_pair, minlength=len(tested))
    reviewer = np.r_[reviewer_pairs.first, reviewer_pairs.second]  # (2M,), like everything below
    task = np.tile(tested.of_pair, 2)
    weight = np.where(undisputed[task], 1 / pair_count[task], 0)  # a task counts once
    apart = _of_other_tasks(reviewer, task, weight * np.tile(reviewer_pairs.distance, 2))
    tasks = _of_other_tasks(reviewer, task, weight)
    rate = (apart + SHRUNK_BY * usual) / (tasks + SHRUNK_BY)
    own = np.clip(np.cos(pi * np.minimum(rate, 0.5)) / max(typical, 1e-3), 0, 0.999)
    i, j = own.reshape(2, -1)
    return np.bincount(tested.of_pair, i * j, len(tested)) / pair_count, usual


def _of_other_tasks(reviewer: np.ndarray, task: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return for each row the sum of its reviewer's values over other tasks."""
    _, pair = np.unique(reviewer * (task.max() + 1) + task, return_inverse=True)
    everything, here = np.bincount(reviewer, values), np.bincount(pair, values)
    return np.asarray(everything[reviewer] - here[pair])


# --- p-values ------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def simulate_statistics(responses: int, rankings: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted distances and gains of simulated tasks with ρ = STEP·step.  (SIMULATED,)"""
    rho = STEP * step
    rng = np.random.default_rng([responses, rankings, step])
    first, second = np.triu_indices(responses, k=1)
    i, j = np.triu_indices(rankings, k=1)
    distances, gains = [], []
    for _ in range(0, SIMULATED, BATCH_SIZE):
        worth = np.sqrt(rho) * rng.standard_normal((BATCH_SIZE, 1, responses), dtype=np.float32)
        noise = np.sqrt(1 - rho) * rng.standard_normal(
            (BATCH_SIZE, rankings, responses), dtype=np.float32
        )
        perceived = worth + noise
        signs = np.where(
            perceived[:, :, first] > perceived[:, :, second], np.float32(1), np.float32(-1)
        )
        taus = signs @ signs.transpose(0, 2, 1) / np.float32(len(first))  # (BATCH_SIZE, R, R)
        distances.append((1 - taus[:, i, j].mean(axis=1)) / 2)
        gains.append(gain_of_reversing(taus))
    return np.sort(np.concatenate(distances)), np.sort(np.concatenate(gains))


def _tables(tested: _Tasks, rho: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    step = np.clip(np.round(rho / STEP).astype(int), 0, round(1 / STEP) - 1)
    rankings = np.minimum(tested.rankings, MAX_RANKINGS)
    shapes = zip(tested.responses.tolist(), rankings.tolist(), step.tolist(), strict=True)
    return [simulate_statistics(*shape) for shape in shapes]


def _p_values(tested: _Tasks, rho: np.ndarray, *, rescale: bool) -> np.ndarray:
    """Return the p-values of both statistics combined; `rescale` scales them to the bulk of tasks."""
    tables = _tables(tested, rho)
    distances = [distances for distances, _ in tables]
    apart = _tails(tested.distance, distances)
    camps = _tails(tested.gain, [gains for _, gains in tables])
    p_value = np.where(tested.rankings > 2, np.minimum(1, 2 * np.minimum(apart, camps)), apart)
    spread = _spread(tested.distance, distances) if rescale else 1.0
    return p_value if spread == 1 else _rescale(p_value, spread)


def _tails(values: np.ndarray, tables: list[np.ndarray], margin: float = -1e-5) -> np.ndarray:
    """Return the share of each table that is at least as large as the value, counting the value."""
    tail = [
        1 + len(table) - np.searchsorted(table, value + margin)
        for value, table in zip(values.tolist(), tables, strict=True)
    ]
    return np.array(tail) / (SIMULATED + 1)


def _spread(values: np.ndarray, tables: list[np.ndarray]) -> float:
    """Return the width of the bulk of the values relative to the tables, at least 1.

    Uses mid-p-values, in which equal values count half, because the values are discrete.
    """
    middle = (_tails(values, tables) + _tails(values, tables, 1e-5)) / 2
    edge = float(np.clip(np.quantile(middle, 1 - BULK), 1e-6, 1 - 1e-6))
    return max(1.0, NORMAL.inv_cdf(1 - edge) / NORMAL.inv_cdf(BULK))


def _rescale(p_value: np.ndarray, spread: float) -> np.ndarray:
    scores = [NORMAL.inv_cdf(min(p, 1 - 1e-9)) for p in p_value.tolist()]
    return np.array([NORMAL.cdf(score / spread) for score in scores])

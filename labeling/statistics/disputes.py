"""Disputed tasks, in which reviewers disagree more than their usual noise explains.

Two statistics are computed for each task from τ = 1 − 2·distance of every two rankings. The distance of
two rankings is 0 for equal orders and 1 for opposite ones; a pair that only one of them ties counts
half.

- The mean distance detects general disagreement.
- The gain of reversing detects two groups of reviewers with opposite orders. It is the largest increase
  of the mean τ that results from reversing the rankings of some reviewers. It needs three rankings. It
  is 0 without disagreement and small for noise; for two opposite groups, it grows with each ranking.

The null model is Thurstone's, "A Law of Comparative Judgment" (Psychological Review 34, 1927): each
reviewer perceives each response's worth with independent normal noise, and ranks the responses by
perceived worth. If two reviewers' perceptions have the correlation ρ, they order a pair in opposite
ways with probability arccos(ρ)/π. The ρ of a task therefore follows from the usual rate of disagreement
in the project and of its reviewers. Both statistics are simulated for this ρ and for the task's numbers
of responses and rankings. Since the model includes responses of similar worth, these alone do not cause
a dispute.

The p-value of a statistic is the share of simulated tasks in which it is at least as extreme. A task's
p-value is twice the smaller one (Bonferroni), or the only one for two rankings. If most tasks have a
wider distribution than the model, all p-values are scaled to them (the empirical null of Efron,
"Large-Scale Simultaneous Hypothesis Testing", JASA 99, 2004). The procedure of Benjamini and Hochberg
(JRSS B 57, 1995) then selects the disputed tasks, so that at most 10% of them are expected to be noise.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi
from statistics import NormalDist
from typing import Any

import numpy as np

from labeling.statistics.reviewer_pairs import ReviewerPairs

FALSE_DISCOVERIES = 0.1
"""Maximum expected share of disputed tasks in which the disagreement is only noise."""
USUAL = 0.27
"""The rate of disagreement assumed until the project's own rate can be estimated. The labelers of Ouyang
et al., "Training language models to follow instructions with human feedback" (2022), agreed on 73%."""
LEARNED_FROM = 30
"""Minimum number of tasks with two rankings from which a project's own rate is estimated."""
SHRUNK_BY = 10
"""Weight of the project's rate in the estimate of a reviewer's rate, as a number of tasks."""
SIMULATED = 20_000
"""Number of tasks simulated for each combination of responses, rankings and ρ. The smallest possible
p-value is 1/20,001."""
BATCH_SIZE = 4_000
"""Number of tasks simulated at a time, to limit the memory."""
MAX_RANKINGS = 9
"""Maximum number of a task's rankings whose reversal is tried, because each one doubles the number of
subsets. Tasks with more rankings use the simulation for this number."""
STEP = 0.05
"""ρ is rounded to a multiple of STEP, so that few combinations must be simulated."""
BULK = 0.8
"""Share of tasks, those with the smallest distances, whose distribution is compared with the model's."""
ROUNDS = 2
"""The usual rate is first estimated from all tasks, and then again without the disputed ones."""
NORMAL = NormalDist()


@dataclass(frozen=True)
class Verdicts:
    """The results of the test for each task with two or more rankings. All arrays are (T,)."""

    tasks: list[Any]
    distance: np.ndarray
    rankings: np.ndarray
    p_value: np.ndarray
    disputed: np.ndarray  # bool
    usual: float
    learned: bool
    """Whether `usual` was estimated from the project's tasks."""

    def __len__(self) -> int:
        return len(self.tasks)


def verdicts(tasks: list[Any], reviewer_pairs: ReviewerPairs) -> Verdicts:
    """Test each task with two or more rankings. `tasks` maps the task numbers in the pairs to tasks.

    Takes about 0.1 s for 1,000 tasks with four responses, plus 0.1 s for the first task in the process
    with each combination of responses, rankings and ρ.
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
    """Return which hypotheses the Benjamini–Hochberg procedure rejects.  → (T,) bool"""
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
    """The T tasks with two or more rankings, and the M pairs of reviewers on them."""

    number: np.ndarray  # (T,) as in ReviewerPairs.task
    of_pair: np.ndarray  # (M,) index of the task on which each pair of reviewers is compared
    responses: np.ndarray  # (T,) mean number that a pair of reviewers compares, at least 2
    rankings: np.ndarray  # (T,)
    distance: np.ndarray  # (T,) the mean over compared pairs of responses
    gain: np.ndarray  # (T,) the gain of reversing; 0 for two rankings

    def __len__(self) -> int:
        return len(self.number)


def _tasks(reviewer_pairs: ReviewerPairs) -> _Tasks:
    """Return the tasks in `reviewer_pairs` with both of their statistics."""
    number, of_pair = np.unique(reviewer_pairs.task, return_inverse=True)
    compared, pair_count = np.bincount(of_pair, reviewer_pairs.compared), np.bincount(of_pair)
    apart = np.bincount(of_pair, reviewer_pairs.distance * reviewer_pairs.compared)
    # (1 + √(1 + 8n)) / 2 responses have n pairs. This is rounded down, after adding a margin for floats.
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
    """Return each task's number of rankings, and the index of each ranking within its task.

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
    """Return each task's gain of reversing.  (M,), (2, M), (T,) and (M,)  → (T,)

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
    """Return the largest increase of the mean τ that results from reversing some of the rankings.

    (T, R, R), of which only the values above the diagonal are read  → (T,), at least 0
    """
    first, second = np.triu_indices(taus.shape[1], k=1)
    above = taus[:, first, second]  # (T, P)
    return (above @ _signs(taus.shape[1])).max(axis=1) - above.mean(axis=1)


@lru_cache(maxsize=MAX_RANKINGS)
def _signs(rankings: int) -> np.ndarray:
    """Return a sign for each pair of rankings and each way to split the rankings into two groups.

    The sign is +1 within a group and −1 across groups, divided by the number of pairs.  → (P, 2^(R − 1))
    """
    splits = np.arange(2 ** (rankings - 1))[:, None] >> np.arange(rankings) & 1
    first, second = np.triu_indices(rankings, k=1)
    same = np.where(splits[:, first] == splits[:, second], 1.0, -1.0)
    return np.ascontiguousarray(same.T) / len(first)


# --- the usual noise -----------------------------------------------------------------------------


def _correlations(
    reviewer_pairs: ReviewerPairs, tested: _Tasks, undisputed: np.ndarray, learned: bool
) -> tuple[np.ndarray, float]:
    """Return the ρ of each task, and the usual rate of disagreement in the `undisputed` tasks."""
    if not learned or not undisputed.any():
        return np.full(len(tested), cos(pi * USUAL)), USUAL
    usual = float(tested.distance[undisputed].mean())
    typical = max(0.0, cos(pi * min(usual, 0.5))) ** 0.5  # correlation of perceived and true worth
    pair_count = np.bincount(tested.of_pair, minlength=len(tested))
    reviewer = np.r_[reviewer_pairs.first, reviewer_pairs.second]  # (2M,), like everything below
    task = np.tile(tested.of_pair, 2)
    weight = np.where(undisputed[task], 1 / pair_count[task], 0)  # every task has the weight 1
    apart = _of_other_tasks(reviewer, task, weight * np.tile(reviewer_pairs.distance, 2))
    tasks = _of_other_tasks(reviewer, task, weight)
    rate = (apart + SHRUNK_BY * usual) / (tasks + SHRUNK_BY)
    own = np.clip(np.cos(pi * np.minimum(rate, 0.5)) / max(typical, 1e-3), 0, 0.999)
    i, j = own.reshape(2, -1)
    return np.bincount(tested.of_pair, i * j, len(tested)) / pair_count, usual


def _of_other_tasks(reviewer: np.ndarray, task: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return, for each row, the sum of its reviewer's values in other tasks."""
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
    """Return the combined p-values of both statistics, scaled to the bulk of the tasks if `rescale`."""
    tables = _tables(tested, rho)
    distances = [distances for distances, _ in tables]
    apart = _tails(tested.distance, distances)
    camps = _tails(tested.gain, [gains for _, gains in tables])
    p_value = np.where(tested.rankings > 2, np.minimum(1, 2 * np.minimum(apart, camps)), apart)
    spread = _spread(tested.distance, distances) if rescale else 1.0
    return p_value if spread == 1 else _rescale(p_value, spread)


def _tails(values: np.ndarray, tables: list[np.ndarray], margin: float = -1e-5) -> np.ndarray:
    """Return the share of each table's values that are at least as large as the task's own value.

    The task's own value is included, so that the share is never 0.
    """
    tail = [
        1 + len(table) - np.searchsorted(table, value + margin)
        for value, table in zip(values.tolist(), tables, strict=True)
    ]
    return np.array(tail) / (SIMULATED + 1)


def _spread(values: np.ndarray, tables: list[np.ndarray]) -> float:
    """Return how much wider the bulk of the values is distributed than the tables, at least 1.

    The values are discrete, so this uses mid-p-values, in which equal values count half.
    """
    middle = (_tails(values, tables) + _tails(values, tables, 1e-5)) / 2
    edge = float(np.clip(np.quantile(middle, 1 - BULK), 1e-6, 1 - 1e-6))
    return max(1.0, NORMAL.inv_cdf(1 - edge) / NORMAL.inv_cdf(BULK))


def _rescale(p_value: np.ndarray, spread: float) -> np.ndarray:
    scores = [NORMAL.inv_cdf(min(p, 1 - 1e-9)) for p in p_value.tolist()]
    return np.array([NORMAL.cdf(score / spread) for score in scores])

"""Tasks on which reviewers disagree more than their usual noise explains. Pure numpy.

Two statistics of a task, both from τ = 1 − 2·distance of every couple of its rankings, where the
distance of two rankings is 0 for the same order, 1 for the reverse, and a tie against an order
counts ½ of a pair:

- the mean distance, for reviewers who are simply far apart;
- with three rankings or more the gain of reversing: how much the mean τ would rise if the best
  chosen camp of reviewers had their rankings reversed. Reviewers of one opinion gain nothing, noise
  gains little, and two camps gain more with each ranking.

The null model is that of Thurstone, "A Law of Comparative Judgment" (Psychological Review 34, 1927):
each reviewer perceives the common worth of each response with independent normal noise, and ranks by
what they perceive. With ρ the correlation of what two reviewers perceive, they order a pair in
opposite ways with probability arccos(ρ)/π. So the usual rate of disagreement, estimated over the
project and for each reviewer, gives the ρ of a task, and simulation the distribution of both
statistics for its numbers of responses and rankings. Tasks differ in how close their responses are in
worth: that is part of the model, and close responses alone make no dispute.

A task's p-value is twice the smaller share of simulated tasks with as extreme a statistic (Bonferroni;
with two rankings there is one statistic). Where the bulk of the tasks is more spread than the model
says, all are scaled to it (the empirical null of Efron, "Large-Scale Simultaneous Hypothesis Testing",
JASA 99, 2004). Of the tasks tested together, those are disputed that pass the procedure of Benjamini
and Hochberg (JRSS B 57, 1995): of the tasks called disputed, at most 10 % are expected to be noise.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi
from statistics import NormalDist
from typing import Any

import numpy as np

from labeling.statistics.meetings import Meetings

FALSE_DISCOVERIES = 0.1
USUAL = 0.27
"""Taken for the rate of disagreement until a project shows its own: the labelers of Ouyang et al.,
"Training language models to follow instructions with human feedback" (2022), agreed on 73 %."""
LEARNED_FROM = 30
"""Tasks with two rankings from which a project's own rate is estimated."""
SHRUNK_BY = 10
"""Tasks by which a reviewer's rate is drawn to the project's."""
SIMULATED = 20_000
AT_ONCE = 4_000
RANKINGS_AT_MOST = 9
STEP = 0.05
BULK = 0.8
ROUNDS = 2
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


def verdicts(tasks: list[Any], met: Meetings) -> Verdicts:
    """Judge every task that has a meeting. `tasks` names them as the meetings number them.

    About 0.1 s for 1,000 tasks of four responses, and as much for each new shape of a task, once in
    a process.
    """
    cases = _cases(met)
    usual, learned = USUAL, len(cases) >= LEARNED_FROM
    p_value = np.ones(len(cases))
    calm = np.ones(len(cases), dtype=bool)
    for _ in range(ROUNDS if learned else 1):
        rho, usual = _correlations(met, cases, calm, learned)
        p_value = _p_values(cases, rho, rescale=learned)
        calm = ~passing(p_value)
    return Verdicts(
        [tasks[task] for task in cases.task],
        cases.distance,
        cases.rankings,
        p_value,
        ~calm & (cases.distance > 0),
        usual,
        learned,
    )


def passing(p_value: np.ndarray, rate: float = FALSE_DISCOVERIES) -> np.ndarray:
    """Return which hypotheses Benjamini and Hochberg's procedure rejects. (T,) bool"""
    order = np.argsort(p_value)
    passes = p_value[order] <= rate * np.arange(1, len(order) + 1) / max(1, len(order))
    last = np.flatnonzero(passes)
    rejected = np.zeros(len(order), dtype=bool)
    if len(last):
        rejected[order[: last[-1] + 1]] = True
    return rejected


# --- the tasks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cases:
    """The tasks with a meeting. All arrays (T,), but `at`: (M,) the case of each meeting."""

    task: np.ndarray
    at: np.ndarray
    responses: np.ndarray
    rankings: np.ndarray
    distance: np.ndarray
    gain: np.ndarray

    def __len__(self) -> int:
        return len(self.task)


def _cases(met: Meetings) -> _Cases:
    task, at = np.unique(met.task, return_inverse=True)
    compared, couples = np.bincount(at, met.compared), np.bincount(at)
    distance = np.bincount(at, met.distance * met.compared) / np.maximum(compared, 1)
    # As many responses as make the pairs of a couple on average, rounded down.
    responses = ((1 + np.sqrt(1 + 8 * compared / np.maximum(couples, 1))) / 2 + 1e-9).astype(int)
    code, place = np.unique(
        np.r_[at, at] * (met.rankings.max(initial=0) + 1) + met.rankings.T.ravel(),
        return_inverse=True,
    )
    case = code // (met.rankings.max(initial=0) + 1)
    rankings = np.bincount(case, minlength=len(task))
    place = place - np.searchsorted(case, np.r_[at, at])
    gain = np.zeros(len(task))
    for count in np.unique(rankings[rankings > 2]):
        chosen = np.flatnonzero(rankings == count)
        number = np.full(len(task), -1)
        number[chosen] = np.arange(len(chosen))
        rows = np.flatnonzero(number[at] >= 0)
        taus = np.zeros((len(chosen), count, count))
        taus[number[at[rows]], place[rows], place[len(at) + rows]] = 1 - 2 * met.distance[rows]
        most = min(int(count), RANKINGS_AT_MOST)
        gain[chosen] = gain_of_reversing(taus[:, :most, :most])
    return _Cases(task, at, np.maximum(responses, 2), rankings, distance, gain)


def gain_of_reversing(taus: np.ndarray) -> np.ndarray:
    """Return how much the mean τ rises if the best chosen rankings are reversed.

    (T, R, R), of which the part above the diagonal is read  → (T,), 0 where reversing gains nothing
    """
    first, second = np.triu_indices(taus.shape[1], k=1)
    above = taus[:, first, second]  # (T, couples)
    return (above @ _signs(taus.shape[1])).max(axis=1) - above.mean(axis=1)


@lru_cache(maxsize=RANKINGS_AT_MOST)
def _signs(rankings: int) -> np.ndarray:
    """Return for each way to split the rankings in two: 1/couples within, less that across.

    (couples, 2^(R − 1))
    """
    splits = np.arange(2 ** (rankings - 1))[:, None] >> np.arange(rankings) & 1
    first, second = np.triu_indices(rankings, k=1)
    same = np.where(splits[:, first] == splits[:, second], 1.0, -1.0)
    return np.ascontiguousarray(same.T) / len(first)


# --- the usual noise -----------------------------------------------------------------------------


def _correlations(
    met: Meetings, cases: _Cases, calm: np.ndarray, learned: bool
) -> tuple[np.ndarray, float]:
    """Return ρ of each task, and the usual rate over the tasks that are `calm`."""
    if not learned or not calm.any():
        return np.full(len(cases), cos(pi * USUAL)), USUAL
    usual = float(cases.distance[calm].mean())
    typical = max(0.0, cos(pi * min(usual, 0.5))) ** 0.5  # a reviewer's correlation with the worth
    couples = np.bincount(cases.at, minlength=len(cases))
    reviewer = np.r_[met.one, met.two]  # (2M,), like everything below
    task = np.tile(cases.at, 2)
    weight = np.where(calm[task], 1 / couples[task], 0)  # a task counts once
    apart = _of_other_tasks(reviewer, task, weight * np.tile(met.distance, 2))
    seen = _of_other_tasks(reviewer, task, weight)
    rate = (apart + SHRUNK_BY * usual) / (seen + SHRUNK_BY)
    own = np.clip(np.cos(pi * np.minimum(rate, 0.5)) / max(typical, 1e-3), 0, 0.999)
    one, two = own.reshape(2, -1)
    return np.bincount(cases.at, one * two, len(cases)) / couples, usual


def _of_other_tasks(reviewer: np.ndarray, task: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return for each row what its reviewer's rows of other tasks sum up to."""
    _, pair = np.unique(reviewer * (task.max() + 1) + task, return_inverse=True)
    everything, here = np.bincount(reviewer, values), np.bincount(pair, values)
    return np.asarray(everything[reviewer] - here[pair])


# --- p-values ------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def simulated(responses: int, rankings: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted distances and gains of simulated tasks with ρ = STEP·step.  (SIMULATED,)"""
    rho = STEP * step
    rng = np.random.default_rng([responses, rankings, step])
    first, second = np.triu_indices(responses, k=1)
    one, two = np.triu_indices(rankings, k=1)
    distances, gains = [], []
    for _ in range(0, SIMULATED, AT_ONCE):
        worth = np.sqrt(rho) * rng.standard_normal((AT_ONCE, 1, responses), dtype=np.float32)
        noise = np.sqrt(1 - rho) * rng.standard_normal(
            (AT_ONCE, rankings, responses), dtype=np.float32
        )
        seen = worth + noise
        said = np.where(seen[:, :, first] > seen[:, :, second], np.float32(1), np.float32(-1))
        taus = said @ said.transpose(0, 2, 1) / np.float32(len(first))  # (AT_ONCE, R, R)
        distances.append((1 - taus[:, one, two].mean(axis=1)) / 2)
        gains.append(gain_of_reversing(taus))
    return np.sort(np.concatenate(distances)), np.sort(np.concatenate(gains))


def _tables(cases: _Cases, rho: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    step = np.clip(np.round(rho / STEP).astype(int), 0, round(1 / STEP) - 1)
    rankings = np.minimum(cases.rankings, RANKINGS_AT_MOST)
    shapes = zip(cases.responses.tolist(), rankings.tolist(), step.tolist(), strict=True)
    return [simulated(*shape) for shape in shapes]


def _p_values(cases: _Cases, rho: np.ndarray, *, rescale: bool) -> np.ndarray:
    """Two-statistic p-values; `rescale` corrects for a bulk that is more spread than the model."""
    tables = _tables(cases, rho)
    distances = [distances for distances, _ in tables]
    apart = _tails(cases.distance, distances)
    camps = _tails(cases.gain, [gains for _, gains in tables])
    p_value = np.where(cases.rankings > 2, np.minimum(1, 2 * np.minimum(apart, camps)), apart)
    spread = _spread(cases.distance, distances) if rescale else 1.0
    return p_value if spread == 1 else _rescaled(p_value, spread)


def _tails(values: np.ndarray, tables: list[np.ndarray], margin: float = -1e-5) -> np.ndarray:
    """Return the share of each table that is at least the value, the value itself included."""
    tail = [
        1 + len(table) - np.searchsorted(table, value + margin)
        for value, table in zip(values.tolist(), tables, strict=True)
    ]
    return np.array(tail) / (SIMULATED + 1)


def _spread(values: np.ndarray, tables: list[np.ndarray]) -> float:
    """Return how many times wider than the tables the bulk of the values is, at least 1.

    The values are discrete, so this takes mid-p-values, in which equal ones count half.
    """
    middle = (_tails(values, tables) + _tails(values, tables, 1e-5)) / 2
    edge = float(np.clip(np.quantile(middle, 1 - BULK), 1e-6, 1 - 1e-6))
    return max(1.0, NORMAL.inv_cdf(1 - edge) / NORMAL.inv_cdf(BULK))


def _rescaled(p_value: np.ndarray, spread: float) -> np.ndarray:
    scores = [NORMAL.inv_cdf(min(p, 1 - 1e-9)) for p in p_value.tolist()]
    return np.array([NORMAL.cdf(score / spread) for score in scores])

"""Reviewers' reliability, estimated from the pairs that several of them judged.

The model is that of Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the
EM Algorithm" (Applied Statistics 28, 1979), applied to pairs of responses. The true side of a pair is
one of two orders or a tie. Which response comes first is arbitrary, so a reviewer's 3×3 confusion
matrix has only three free parameters:

    truly ordered:  right, tie, reversed      (their sum is 1)
    truly tied:     tie_of_tie, and half of 1 − tie_of_tie for each order

`quality` = right + tie/2 is the probability of judging an ordered pair correctly, where a tie counts
half: 1 is always right, 0.5 is chance, and 0 is always reversed. It corresponds to η in Chen et al.,
"Pairwise Ranking Aggregation in a Crowdsourced Setting" (Crowd-BT, WSDM 2013), but does not assume a
common scale for all responses, because responses to different prompts have none.

The estimates maximise the posterior under weak Dirichlet priors, by EM. The pairs of one ranking are
dependent, so the standard errors are those of a composite likelihood: the sandwich estimator of Varin,
Reid and Firth, "An Overview of Composite Likelihood Methods" (Statistica Sinica 21, 2011), with tasks
as units, and computed for all reviewers together.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labeling.statistics.intervals import Z95
from labeling.statistics.pairs import Judgment, Pairs, expand, index_pairs, runs_of

# Pseudo-counts of the priors, in pairs. Those of ORDERED are as many as a ranking of four responses has.
ORDERED = np.array([4.0, 1.0, 1.0])  # right, tie, reversed
TIED = np.array([1.5, 1.5])  # judged a tie, or not
TRULY = np.array([8.0, 2.0])  # ordered, tied

MAX_STEPS = 200
MAX_STEP = 64.0
TOLERANCE = 1e-5  # for changes in log odds
MAX_JOINT_REVIEWERS = 400


@dataclass(frozen=True)
class Reliability:
    """One reviewer's reliability, with a 95% interval for the quality.

    `tasks` and `pairs` are the numbers of tasks and pairs that other reviewers have judged too.
    """

    right: float
    tie: float
    tie_of_tie: float
    error: float
    tasks: int = 0
    pairs: int = 0

    @property
    def quality(self) -> float:
        return self.right + self.tie / 2

    @property
    def low(self) -> float:
        return self._bound(-Z95)

    @property
    def high(self) -> float:
        return self._bound(Z95)

    def _bound(self, z: float) -> float:
        """Return a bound of the interval, computed on the log-odds scale so that it is between 0 and 1."""
        quality = min(max(self.quality, 1e-9), 1 - 1e-9)
        odds = quality / (1 - quality) * np.exp(z * self.error / (quality * (1 - quality)))
        return float(odds / (1 + odds))


# Assumed for reviewers who share no task with others.
TYPICAL = Reliability(right=0.75, tie=0.1, tie_of_tie=0.5, error=0.15)


@dataclass(frozen=True)
class Reliabilities:
    """Reviewers' reliabilities. Unknown reviewers are `typical`; `tied` is the share of true ties."""

    of: Mapping[Hashable, Reliability] = field(default_factory=dict)
    typical: Reliability = TYPICAL
    tied: float = float(TRULY[1] / TRULY.sum())
    reason: str = ""

    def __getitem__(self, reviewer: Hashable) -> Reliability:
        return self.of.get(reviewer, self.typical)


NOBODY_MET = "No two reviewers ranked the same responses, so reviewers cannot be compared."


def fit(judgments: Iterable[Judgment]) -> Reliabilities:
    """Estimate the reliabilities. If that is impossible, the result has a `reason`.

    100,000 rankings of four responses take three to six seconds.
    """
    return fit_pairs(expand(judgments))


def fit_pairs(pairs: Pairs) -> Reliabilities:
    shared = _shared(pairs)
    if not len(shared.pair):
        return Reliabilities(reason=NOBODY_MET)
    patterns = _patterns(shared)
    confusion, tied = _em(patterns, len(pairs.reviewers))
    errors = _errors(shared, patterns, confusion, tied, len(pairs.reviewers))
    present = np.unique(shared.reviewer)
    tasks = _tasks_each(shared, len(pairs.reviewers))
    count = np.bincount(shared.reviewer, minlength=len(pairs.reviewers))
    reliabilities = {
        pairs.reviewers[w]: Reliability(
            right=float(confusion[w, 0]),
            tie=float(confusion[w, 1]),
            tie_of_tie=float(confusion[w, 3]),
            error=float(errors[w]),
            tasks=int(tasks[w]),
            pairs=int(count[w]),
        )
        for w in present
    }
    return Reliabilities(reliabilities, _typical(confusion[present], reliabilities), tied)


def _typical(confusion: np.ndarray, of: Mapping[Any, Reliability]) -> Reliability:
    """Return a reviewer with the median parameters, and the spread between reviewers as the error."""
    right, tie, _, tie_of_tie = (float(v) for v in np.median(confusion, axis=0))
    qualities = [reliability.quality for reliability in of.values()]
    spread = float(np.std(qualities)) if len(qualities) > 2 else TYPICAL.error
    right = min(right, 1 - tie)
    return Reliability(right, tie, tie_of_tie, max(spread, 0.02))


# --- judgments ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judgments:
    """The judgments of pairs that have two or more of them, sorted by pair."""

    pair: np.ndarray  # (N,) renumbered from 0
    reviewer: np.ndarray  # (N,)
    side: np.ndarray  # (N,) 0: the first is better, 1: tied, 2: worse
    task: np.ndarray  # (N,)
    weight: np.ndarray  # (P,) number of pairs with these judgments
    same_as: np.ndarray  # (all pairs,) number of the pair that represents each of all pairs


def _shared(pairs: Pairs) -> _Judgments:
    several = np.bincount(pairs.pair, minlength=len(pairs)) > 1
    keep = several[pairs.pair]
    _, numbered = np.unique(pairs.pair[keep], return_inverse=True)
    count = int(several.sum())
    return _Judgments(
        numbered,
        pairs.reviewer[keep],
        1 - pairs.outcome[keep].astype(np.int64),
        pairs.task[pairs.pair[keep]],
        np.ones(count),
        np.arange(count),
    )


def _patterns(shared: _Judgments) -> _Judgments:
    """Merge pairs that have the same judgments by the same reviewers, so that far fewer are left.

    Pairs are compared by hashes: each (reviewer, side) has a random 64-bit number, and a pair has their
    sum.
    """
    rng = np.random.default_rng(0)
    code = shared.reviewer * 3 + shared.side
    hashes = rng.integers(0, 2**63, size=int(code.max()) + 1, dtype=np.uint64)
    starts, sizes = runs_of(shared.pair)
    sums = np.add.reduceat(hashes[code], starts)
    _, at, same_as, weight = np.unique(
        sums, return_index=True, return_inverse=True, return_counts=True
    )
    rows = np.repeat(starts[at], sizes[at]) + _ramp(sizes[at])
    return _Judgments(
        np.repeat(np.arange(len(at)), sizes[at]),
        shared.reviewer[rows],
        shared.side[rows],
        shared.task[rows],
        weight.astype(float),
        same_as,
    )


def _ramp(sizes: np.ndarray) -> np.ndarray:
    """Return the numbers 0 … n−1 for each size n, one after the other."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)


def _tasks_each(shared: _Judgments, reviewers: int) -> np.ndarray:
    reviewer_tasks = np.unique(shared.reviewer * (shared.task.max() + 1) + shared.task)
    return np.bincount(reviewer_tasks // (shared.task.max() + 1), minlength=reviewers)


# --- the estimates -------------------------------------------------------------------------------


def log_confusion(confusion: np.ndarray) -> np.ndarray:
    """Return the logs of the confusion matrices. Both of their axes are >, =, <.

    (…, 4) right, tie, reversed, tie_of_tie  → (…, truth, judgment)
    """
    right, tie, wrong, tie_of_tie = np.moveaxis(np.clip(confusion, 1e-9, 1), -1, 0)
    either = np.clip((1 - tie_of_tie) / 2, 1e-9, 1)
    rows = [[right, tie, wrong], [either, tie_of_tie, either], [wrong, tie, right]]
    return np.moveaxis(np.log(np.array(rows)), (0, 1), (-2, -1))


def log_truth(tied: float) -> np.ndarray:
    """Return the log prior of the true side of a pair.  → (3,)"""
    return np.log(np.clip([(1 - tied) / 2, tied, (1 - tied) / 2], 1e-9, 1))


def posterior(
    pair: np.ndarray,
    reviewer: np.ndarray,
    side: np.ndarray,
    log_chances: np.ndarray,
    truth: np.ndarray,
) -> np.ndarray:
    """Return the posterior probabilities of >, = and < for each pair.  → (P, 3)"""
    count = int(pair.max(initial=-1)) + 1
    evidence = [np.bincount(pair, log_chances[reviewer, z, side], count) for z in range(3)]
    logs = np.array(evidence).T + truth
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _em(rows: _Judgments, reviewers: int) -> tuple[np.ndarray, float]:
    """Return each reviewer's right, tie, reversed and tie_of_tie, and the share of true ties.

    EM is accelerated by SQUAREM, scheme S3 (Varadhan and Roland, Scandinavian Journal of Statistics 35,
    2008), which needs a tenth of the steps and converges to a fixed point of EM.
    """
    ordered, called_tie = ORDERED / ORDERED.sum(), TIED[0] / TIED.sum()
    point = _odds(
        np.tile(np.r_[ordered, called_tie], (reviewers, 1)), float(TRULY[1] / TRULY.sum())
    )
    for _ in range(MAX_STEPS):
        once = _step(rows, point)
        twice = _step(rows, once)
        first, bend = once - point, (twice - once) - (once - point)
        if np.abs(first).max() < TOLERANCE:
            break
        length = -float(np.linalg.norm(first)) / max(float(np.linalg.norm(bend)), 1e-12)
        length = min(-1.0, max(length, -MAX_STEP))
        point = _step(rows, np.clip(point - 2 * length * first + length**2 * bend, -20, 20))
    return _chances(point)


def _step(rows: _Judgments, point: np.ndarray) -> np.ndarray:
    confusion, tied = _chances(point)
    truths = posterior(
        rows.pair, rows.reviewer, rows.side, log_confusion(confusion), log_truth(tied)
    )
    truths *= rows.weight[:, None]
    return _odds(*_m_step(rows, truths, len(confusion)))


def _odds(confusion: np.ndarray, tied: float) -> np.ndarray:
    """Return the parameters on unbounded scales: those of `_scores`, and the log odds of a true tie."""
    right, tie, wrong, tie_of_tie = confusion.T
    odds = np.log([right / wrong, tie / wrong, tie_of_tie / (1 - tie_of_tie)]).T
    return np.r_[odds.ravel(), np.log(tied / (1 - tied))]


def _chances(point: np.ndarray) -> tuple[np.ndarray, float]:
    odds = np.exp(point)
    right, tie, of_tie = odds[:-1].reshape(-1, 3).T
    total = 1 + right + tie
    confusion = np.column_stack([right / total, tie / total, 1 / total, of_tie / (1 + of_tie)])
    return confusion, float(odds[-1] / (1 + odds[-1]))


def _m_step(rows: _Judgments, truths: np.ndarray, reviewers: int) -> tuple[np.ndarray, float]:
    code = rows.reviewer * 3 + rows.side

    def judgments_of(z: int) -> np.ndarray:
        return np.bincount(code, truths[rows.pair, z], reviewers * 3).reshape(-1, 3)

    ordered = judgments_of(0) + judgments_of(2)[:, ::-1] + ORDERED
    level = judgments_of(1)
    called_tie = (level[:, 1] + TIED[0]) / (level.sum(axis=1) + TIED.sum())
    ordered /= ordered.sum(axis=1, keepdims=True)
    share = (truths[:, 1].sum() + TRULY[1]) / (truths.sum() + TRULY.sum())
    return np.column_stack([ordered, called_tie]), float(share)


# --- standard errors ------------------------------------------------------------------------------


def _errors(
    shared: _Judgments,
    patterns: _Judgments,
    confusion: np.ndarray,
    tied: float,
    reviewers: int,
) -> np.ndarray:
    """Return the standard error of each reviewer's quality.  → (reviewers,)

    With more than MAX_JOINT_REVIEWERS reviewers, the error of each one ignores that the others are
    estimated.
    """
    scores = _scores(confusion)
    truths = posterior(
        patterns.pair, patterns.reviewer, patterns.side, log_confusion(confusion), log_truth(tied)
    )
    prior = _complete(confusion, np.tile([ORDERED.sum(), TIED.sum()], (reviewers, 1)))
    bread = _information(patterns, truths, scores, confusion, reviewers)
    meat = _variability(shared, truths[patterns.same_as], scores)
    slope = _slope(confusion)
    if reviewers <= MAX_JOINT_REVIEWERS:
        return _sandwich(_dense(bread, reviewers), _dense(meat, reviewers), prior, slope)
    own_bread, own_meat = (_diagonal(blocks, reviewers) for blocks in (bread, meat))
    return np.concatenate(
        [
            _sandwich(own_bread[w], own_meat[w], prior[w : w + 1], slope[w : w + 1])
            for w in range(reviewers)
        ]
    )


def _sandwich(
    bread: np.ndarray, meat: np.ndarray, prior: np.ndarray, slope: np.ndarray
) -> np.ndarray:
    """Return the larger of the model-based and the robust standard error.

    The robust error allows for the dependence between pairs.
    """
    size = len(prior)
    each = np.arange(size)
    blocks = np.zeros((size, 3, size, 3))
    blocks[each, :, each, :] = prior
    among = blocks.reshape(3 * size, 3 * size)
    columns = np.zeros((size, 3, size))
    columns[each, :, each] = slope
    directions = columns.reshape(3 * size, size)
    try:
        reach = np.linalg.solve(bread + among, directions)
    except np.linalg.LinAlgError:
        reach = np.linalg.lstsq(bread + among, directions, rcond=None)[0]
    plain = np.einsum("ij,ij->j", directions, reach)
    robust = np.einsum("ij,ij->j", reach, (meat + among) @ reach)
    return np.sqrt(np.maximum(np.maximum(plain, robust), 1e-12))


def _scores(confusion: np.ndarray) -> np.ndarray:
    """Return the gradient of each judgment's log likelihood.  → (reviewers, truth, judgment, 3)

    The parameters are log(right/reversed), log(tie/reversed) and the log odds of tie_of_tie.
    """
    right, tie, _, tie_of_tie = confusion.T
    scores = np.zeros((len(confusion), 3, 3, 3))
    for truth in (0, 2):
        scores[:, truth, :, 0] = -right[:, None]
        scores[:, truth, :, 1] = -tie[:, None]
        scores[:, truth, truth, 0] += 1
        scores[:, truth, 1, 1] += 1
    scores[:, 1, :, 2] = -tie_of_tie[:, None]
    scores[:, 1, 1, 2] += 1
    return scores


def _complete(confusion: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the Fisher information of pairs with known truth. `counts` are (ordered, tied) pairs.

    → (reviewers, 3, 3)
    """
    right, tie, _, tie_of_tie = confusion.T
    information = np.zeros((len(confusion), 3, 3))
    information[:, 0, 0] = right * (1 - right)
    information[:, 1, 1] = tie * (1 - tie)
    information[:, 0, 1] = information[:, 1, 0] = -right * tie
    information[:, :2, :2] *= counts[:, 0, None, None]
    information[:, 2, 2] = tie_of_tie * (1 - tie_of_tie) * counts[:, 1]
    return information


Blocks = tuple[np.ndarray, np.ndarray, np.ndarray]  # reviewer, reviewer, (n, 3, 3)


def _information(
    rows: _Judgments,
    truths: np.ndarray,
    scores: np.ndarray,
    confusion: np.ndarray,
    reviewers: int,
) -> Blocks:
    """Return the observed information: complete minus missing information (Louis, JRSS B 44, 1982)."""
    weight = rows.weight[rows.pair]
    ordered = np.bincount(rows.reviewer, weight * (1 - truths[rows.pair, 1]), reviewers)
    level = np.bincount(rows.reviewer, weight * truths[rows.pair, 1], reviewers)
    everyone = np.arange(reviewers)
    own = _complete(confusion, np.column_stack([ordered, level]))
    by_truth = scores[rows.reviewer, :, rows.side]  # (n, truth, 3)
    chances = truths[rows.pair]
    spread = by_truth - np.einsum("nz,nzp->np", chances, by_truth)[:, None, :]
    first, second = _with_itself(rows.pair)
    missing = np.einsum(
        "nz,nzp,nzq->npq", -weight[first, None] * chances[first], spread[first], spread[second]
    )
    return (
        np.r_[everyone, rows.reviewer[first]],
        np.r_[everyone, rows.reviewer[second]],
        np.concatenate([own, missing]),
    )


def _variability(rows: _Judgments, truths: np.ndarray, scores: np.ndarray) -> Blocks:
    """Return the covariance of the gradient, estimated from its variation between tasks."""
    expected = np.einsum(
        "nz,nzp->np", truths[rows.pair], scores[rows.reviewer, :, rows.side], optimize=True
    )
    key = rows.task * (rows.reviewer.max() + 1) + rows.reviewer
    present, at = np.unique(key, return_inverse=True)
    slopes = np.column_stack([np.bincount(at, expected[:, p], len(present)) for p in range(3)])
    task, reviewer = np.divmod(present, rows.reviewer.max() + 1)
    first, second = _with_itself(task)
    return (
        reviewer[first],
        reviewer[second],
        slopes[first][:, :, None] * slopes[second][:, None, :],
    )


def _with_itself(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all (i, j) with both indexes in the same group, in both orders and including i = j."""
    i, j = index_pairs(group)
    each = np.arange(len(group))
    return np.r_[each, i, j], np.r_[each, j, i]


def _dense(blocks: Blocks, reviewers: int) -> np.ndarray:
    first, second, values = blocks
    size = 3 * reviewers
    rows = (first[:, None] * 3 + np.arange(3))[:, :, None]
    columns = (second[:, None] * 3 + np.arange(3))[:, None, :]
    code = (rows * size + columns).ravel()
    return np.bincount(code, values.ravel(), size * size).reshape(size, size)


def _diagonal(blocks: Blocks, reviewers: int) -> np.ndarray:
    first, second, values = blocks
    own = first == second
    code = (first[own][:, None] * 9 + np.arange(9)).ravel()
    return np.bincount(code, values[own].ravel(), reviewers * 9).reshape(reviewers, 3, 3)


def _slope(confusion: np.ndarray) -> np.ndarray:
    """Return the gradient of the quality by the parameters of `_scores`.  → (reviewers, 3)"""
    right, tie, _, _ = confusion.T
    by_right = right * (1 - right) - right * tie / 2
    by_tie = tie * (1 - tie) / 2 - right * tie
    return np.column_stack([by_right, by_tie, np.zeros(len(confusion))])

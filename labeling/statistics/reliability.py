"""How far each reviewer can be trusted, from how they judge the pairs that others judged too.

The model is that of Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using
the EM Algorithm" (Applied Statistics 28, 1979), on pairs of responses. A pair is truly ordered one
way, the other, or tied; which of two responses comes first is only a matter of numbering, so the
3×3 confusion of a reviewer has three free numbers:

    truly ordered:  right, tie, reversed      (they sum to 1)
    truly tied:     tie_of_tie, and half of the rest for either order

`quality` = right + tie/2 is the chance of being right about an ordered pair when a tie counts half:
1 is never wrong, 0.5 knows nothing, 0 is always the wrong way round. It plays the part that η has
in Chen et al., "Pairwise Ranking Aggregation in a Crowdsourced Setting" (Crowd-BT, WSDM 2013),
without assuming that all responses lie on one scale, which those of different prompts do not.

Estimates are those of highest posterior density under weak Dirichlet priors, found by EM. The
pairs of one ranking hang together, so standard errors are those of a composite likelihood: the
sandwich of Varin, Reid and Firth, "An Overview of Composite Likelihood Methods" (Statistica Sinica
21, 2011), with the task as the unit, over all reviewers at once.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labeling.statistics.intervals import Z95
from labeling.statistics.pairs import Judgment, Pairs, couples, expand, runs_of

# Pseudo-counts of pairs: as much as one ranking of four responses says.
ORDERED = np.array([4.0, 1.0, 1.0])  # right, tie, reversed
TIED = np.array([1.5, 1.5])  # a tie called a tie, or not
TRULY = np.array([8.0, 2.0])  # ordered, tied

STEPS_AT_MOST = 200
LONGEST_STEP = 64.0
TOLERANCE = 1e-5  # of log odds
REVIEWERS_TOGETHER = 400


@dataclass(frozen=True)
class Reliability:
    """Of one reviewer. `low` to `high` holds the quality with 95 %; `tasks` and `pairs` were shared."""

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
        """On the scale of log odds, so that it stays between 0 and 1."""
        quality = min(max(self.quality, 1e-9), 1 - 1e-9)
        odds = quality / (1 - quality) * np.exp(z * self.error / (quality * (1 - quality)))
        return float(odds / (1 + odds))


# What is taken for someone of whom nothing is known yet.
TYPICAL = Reliability(right=0.75, tie=0.1, tie_of_tie=0.5, error=0.15)


@dataclass(frozen=True)
class Reliabilities:
    """`tied` is the share of pairs that are truly tied. Ask for anyone: strangers are typical."""

    of: Mapping[Hashable, Reliability] = field(default_factory=dict)
    typical: Reliability = TYPICAL
    tied: float = float(TRULY[1] / TRULY.sum())
    reason: str = ""

    def __getitem__(self, reviewer: Hashable) -> Reliability:
        return self.of.get(reviewer, self.typical)


NOBODY_MET = "No two reviewers ranked the same responses, so no one can be checked against another."


def fit(judgments: Iterable[Judgment]) -> Reliabilities:
    """Three to six seconds for 100,000 rankings of four responses. `reason` says why there are none."""
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
    found = {
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
    return Reliabilities(found, _typical(confusion[present], found), tied)


def _typical(confusion: np.ndarray, found: Mapping[Any, Reliability]) -> Reliability:
    """The median reviewer, as uncertain as reviewers differ."""
    right, tie, _, tie_of_tie = (float(v) for v in np.median(confusion, axis=0))
    qualities = [one.quality for one in found.values()]
    spread = float(np.std(qualities)) if len(qualities) > 2 else TYPICAL.error
    right = min(right, 1 - tie)
    return Reliability(right, tie, tie_of_tie, max(spread, 0.02))


# --- what counts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Statements:
    """Sorted by pair; every pair has two or more."""

    pair: np.ndarray  # (N,) numbered anew
    reviewer: np.ndarray  # (N,)
    said: np.ndarray  # (N,) 0: the first is better, 1: tied, 2: worse
    task: np.ndarray  # (N,)
    weight: np.ndarray  # (P,) how many pairs look like this
    same_as: np.ndarray  # for every pair that was gathered here: its number


def _shared(pairs: Pairs) -> _Statements:
    several = np.bincount(pairs.pair, minlength=len(pairs)) > 1
    keep = several[pairs.pair]
    _, numbered = np.unique(pairs.pair[keep], return_inverse=True)
    count = int(several.sum())
    return _Statements(
        numbered,
        pairs.reviewer[keep],
        1 - pairs.outcome[keep].astype(np.int64),
        pairs.task[pairs.pair[keep]],
        np.ones(count),
        np.arange(count),
    )


def _patterns(shared: _Statements) -> _Statements:
    """Pairs of which the same reviewers say the same, once: there are far fewer of them.

    Told apart by the sum of a random 64-bit number for each (reviewer, statement).
    """
    rng = np.random.default_rng(0)
    code = shared.reviewer * 3 + shared.said
    hashes = rng.integers(0, 2**63, size=int(code.max()) + 1, dtype=np.uint64)
    starts, sizes = runs_of(shared.pair)
    sums = np.add.reduceat(hashes[code], starts)
    _, at, same_as, weight = np.unique(
        sums, return_index=True, return_inverse=True, return_counts=True
    )
    rows = np.repeat(starts[at], sizes[at]) + _ramp(sizes[at])
    return _Statements(
        np.repeat(np.arange(len(at)), sizes[at]),
        shared.reviewer[rows],
        shared.said[rows],
        shared.task[rows],
        weight.astype(float),
        same_as,
    )


def _ramp(sizes: np.ndarray) -> np.ndarray:
    """0 … n−1 for each size n, one after the other."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)


def _tasks_each(shared: _Statements, reviewers: int) -> np.ndarray:
    seen = np.unique(shared.reviewer * (shared.task.max() + 1) + shared.task)
    return np.bincount(seen // (shared.task.max() + 1), minlength=reviewers)


# --- the estimates -------------------------------------------------------------------------------


def log_confusion(confusion: np.ndarray) -> np.ndarray:
    """(…, 4) right, tie, reversed, tie_of_tie  → (…, truth, said) logs, each axis >, =, <"""
    right, tie, wrong, tie_of_tie = np.moveaxis(np.clip(confusion, 1e-9, 1), -1, 0)
    either = np.clip((1 - tie_of_tie) / 2, 1e-9, 1)
    rows = [[right, tie, wrong], [either, tie_of_tie, either], [wrong, tie, right]]
    return np.moveaxis(np.log(np.array(rows)), (0, 1), (-2, -1))


def log_truth(tied: float) -> np.ndarray:
    """(3,): before anything is said of a pair"""
    return np.log(np.clip([(1 - tied) / 2, tied, (1 - tied) / 2], 1e-9, 1))


def posterior(
    pair: np.ndarray, reviewer: np.ndarray, said: np.ndarray, logs: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """What each pair truly is, given what was said of it.  → (P, 3) probabilities of >, =, <"""
    count = int(pair.max(initial=-1)) + 1
    evidence = [np.bincount(pair, logs[reviewer, z, said], count) for z in range(3)]
    found = np.array(evidence).T + truth
    found = np.exp(found - found.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)


def _em(rows: _Statements, reviewers: int) -> tuple[np.ndarray, float]:
    """→ (reviewers, 4) right, tie, reversed, tie_of_tie; and the share of ties

    Steps of EM are drawn out as in SQUAREM, scheme S3 (Varadhan and Roland, Scandinavian Journal
    of Statistics 35, 2008): ten times fewer than of plain EM. The end is a point that EM keeps.
    """
    ordered, called_tie = ORDERED / ORDERED.sum(), TIED[0] / TIED.sum()
    place = _odds(
        np.tile(np.r_[ordered, called_tie], (reviewers, 1)), float(TRULY[1] / TRULY.sum())
    )
    for _ in range(STEPS_AT_MOST):
        once = _step(rows, place)
        twice = _step(rows, once)
        first, bend = once - place, (twice - once) - (once - place)
        if np.abs(first).max() < TOLERANCE:
            break
        length = -float(np.linalg.norm(first)) / max(float(np.linalg.norm(bend)), 1e-12)
        length = min(-1.0, max(length, -LONGEST_STEP))
        place = _step(rows, np.clip(place - 2 * length * first + length**2 * bend, -20, 20))
    return _chances(place)


def _step(rows: _Statements, place: np.ndarray) -> np.ndarray:
    confusion, tied = _chances(place)
    held = posterior(rows.pair, rows.reviewer, rows.said, log_confusion(confusion), log_truth(tied))
    held *= rows.weight[:, None]
    return _odds(*_m_step(rows, held, len(confusion)))


def _odds(confusion: np.ndarray, tied: float) -> np.ndarray:
    """Without bounds: the parameters of `_scores`, flat, and the log odds of a tie in truth."""
    right, tie, wrong, tie_of_tie = confusion.T
    odds = np.log([right / wrong, tie / wrong, tie_of_tie / (1 - tie_of_tie)]).T
    return np.r_[odds.ravel(), np.log(tied / (1 - tied))]


def _chances(place: np.ndarray) -> tuple[np.ndarray, float]:
    odds = np.exp(place)
    right, tie, of_tie = odds[:-1].reshape(-1, 3).T
    total = 1 + right + tie
    confusion = np.column_stack([right / total, tie / total, 1 / total, of_tie / (1 + of_tie)])
    return confusion, float(odds[-1] / (1 + odds[-1]))


def _m_step(rows: _Statements, held: np.ndarray, reviewers: int) -> tuple[np.ndarray, float]:
    code = rows.reviewer * 3 + rows.said

    def said(z: int) -> np.ndarray:
        return np.bincount(code, held[rows.pair, z], reviewers * 3).reshape(-1, 3)

    ordered = said(0) + said(2)[:, ::-1] + ORDERED
    level = said(1)
    called_tie = (level[:, 1] + TIED[0]) / (level.sum(axis=1) + TIED.sum())
    ordered /= ordered.sum(axis=1, keepdims=True)
    share = (held[:, 1].sum() + TRULY[1]) / (held.sum() + TRULY.sum())
    return np.column_stack([ordered, called_tie]), float(share)


# --- how sure they are ---------------------------------------------------------------------------


def _errors(
    shared: _Statements,
    patterns: _Statements,
    confusion: np.ndarray,
    tied: float,
    reviewers: int,
) -> np.ndarray:
    """Standard errors of the quality. (reviewers,)

    Beyond REVIEWERS_TOGETHER, each reviewer's is taken as if the others were known.
    """
    scores = _scores(confusion)
    held = posterior(
        patterns.pair, patterns.reviewer, patterns.said, log_confusion(confusion), log_truth(tied)
    )
    prior = _complete(confusion, np.tile([ORDERED.sum(), TIED.sum()], (reviewers, 1)))
    bread = _information(patterns, held, scores, confusion, reviewers)
    meat = _variability(shared, held[patterns.same_as], scores)
    slope = _slope(confusion)
    if reviewers <= REVIEWERS_TOGETHER:
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
    """The larger of the model's own error and the one that minds that pairs hang together."""
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
    """Slopes of the log likelihood of a statement. (reviewers, truth, said, 3)

    By log(right/reversed), log(tie/reversed) and the log odds of tie_of_tie.
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
    """What (ordered, tied) pairs would tell if their truth were known. (reviewers, 3, 3)"""
    right, tie, _, tie_of_tie = confusion.T
    found = np.zeros((len(confusion), 3, 3))
    found[:, 0, 0] = right * (1 - right)
    found[:, 1, 1] = tie * (1 - tie)
    found[:, 0, 1] = found[:, 1, 0] = -right * tie
    found[:, :2, :2] *= counts[:, 0, None, None]
    found[:, 2, 2] = tie_of_tie * (1 - tie_of_tie) * counts[:, 1]
    return found


Blocks = tuple[np.ndarray, np.ndarray, np.ndarray]  # reviewer, reviewer, (n, 3, 3)


def _information(
    rows: _Statements,
    held: np.ndarray,
    scores: np.ndarray,
    confusion: np.ndarray,
    reviewers: int,
) -> Blocks:
    """Observed: complete less missing (Louis, JRSS B 44, 1982)."""
    weight = rows.weight[rows.pair]
    ordered = np.bincount(rows.reviewer, weight * (1 - held[rows.pair, 1]), reviewers)
    level = np.bincount(rows.reviewer, weight * held[rows.pair, 1], reviewers)
    everyone = np.arange(reviewers)
    own = _complete(confusion, np.column_stack([ordered, level]))
    by_truth = scores[rows.reviewer, :, rows.said]  # (n, truth, 3)
    chances = held[rows.pair]
    spread = by_truth - np.einsum("nz,nzp->np", chances, by_truth)[:, None, :]
    left, right = _with_itself(rows.pair)
    missing = np.einsum(
        "nz,nzp,nzq->npq", -weight[left, None] * chances[left], spread[left], spread[right]
    )
    return (
        np.r_[everyone, rows.reviewer[left]],
        np.r_[everyone, rows.reviewer[right]],
        np.concatenate([own, missing]),
    )


def _variability(rows: _Statements, held: np.ndarray, scores: np.ndarray) -> Blocks:
    """Of the slope from task to task."""
    expected = np.einsum(
        "nz,nzp->np", held[rows.pair], scores[rows.reviewer, :, rows.said], optimize=True
    )
    key = rows.task * (rows.reviewer.max() + 1) + rows.reviewer
    present, at = np.unique(key, return_inverse=True)
    slopes = np.column_stack([np.bincount(at, expected[:, p], len(present)) for p in range(3)])
    task, reviewer = np.divmod(present, rows.reviewer.max() + 1)
    left, right = _with_itself(task)
    return (
        reviewer[left],
        reviewer[right],
        slopes[left][:, :, None] * slopes[right][:, None, :],
    )


def _with_itself(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) of one group, i = j and both orders included."""
    one, two = couples(group)
    each = np.arange(len(group))
    return np.r_[each, one, two], np.r_[each, two, one]


def _dense(blocks: Blocks, reviewers: int) -> np.ndarray:
    left, right, values = blocks
    size = 3 * reviewers
    rows = (left[:, None] * 3 + np.arange(3))[:, :, None]
    columns = (right[:, None] * 3 + np.arange(3))[:, None, :]
    code = (rows * size + columns).ravel()
    return np.bincount(code, values.ravel(), size * size).reshape(size, size)


def _diagonal(blocks: Blocks, reviewers: int) -> np.ndarray:
    left, right, values = blocks
    own = left == right
    code = (left[own][:, None] * 9 + np.arange(9)).ravel()
    return np.bincount(code, values[own].ravel(), reviewers * 9).reshape(reviewers, 3, 3)


def _slope(confusion: np.ndarray) -> np.ndarray:
    """Of right + tie/2, by the parameters of `_scores`. (reviewers, 3)"""
    right, tie, _, _ = confusion.T
    by_right = right * (1 - right) - right * tie / 2
    by_tie = tie * (1 - tie) / 2 - right * tie
    return np.column_stack([by_right, by_tie, np.zeros(len(confusion))])

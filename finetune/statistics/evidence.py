"""Evidence that one model is better than another, valid whenever it is read. Pure numpy.

A verdict is 1 if the candidate's answer won, ½ for a tie and 0 if it lost. The unit is the prompt: its
verdicts are averaged into one number in [0, 1]. The null hypothesis μ ≤ m says that the mean of the
units is at most m. A gambler bets against this hypothesis. If it is true, the gambler has
no edge. After the units x₁ … xₙ, the capital is

    W(m) = Σ_c w_c Π_i (1 - c + c·xᵢ/m)

with the fixed stakes c and weights w_c of `STAKES` and `WEIGHTS`. If μ ≤ m, W(m) is a nonnegative
supermartingale that starts at 1, so the probability that it ever reaches 1/α is at most α (Ville's
inequality). The verdicts may therefore be read after each prompt, and the evaluation may stop at any
time. Hypotheses μ ≥ m use 1 - x and 1 - m.

W(m) falls as m rises. The values of m whose capital never reached 2/α, on either side, therefore form an
interval: the confidence sequence. With a probability of at least 1 - α, it contains μ after every
unit. The conclusion is read from it, so an error of either side has a probability of at most α/2.

A judge can make the interval narrower without deciding anything. It gives each prompt a value in [0, 1].
The prompts are divided into blocks at random, and people judge the first prompt of each block. The
excess dᵢ is the judge's value of this prompt minus its mean value of the other prompts of the block.
All prompts of a block are drawn in the same way, so the mean of dᵢ is 0, whatever the judge is like. The
payoff yᵢ = xᵢ - γᵢ·dᵢ therefore has the same mean as xᵢ, and a smaller variance if the judge agrees with
people. The slope γᵢ in [0, 1] and the scale kᵢ of the stakes are estimated from earlier prompts only, so
the gambler still has no edge:

    W(m) = Σ_c w_c Π_i (1 + min(c·kᵢ, MOST_STAKE)·(yᵢ - m) / (m + γᵢ))

With the correlation ρ of verdict and judge, and B prompts in a block, the variance falls by at most
ρ²·(1 - 1/B), and so does the number of verdicts, about. A judge that is biased or useless costs a few
verdicts, but no validity.

Source: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2024,
arXiv 2010.09686, with their diversified Kelly bets. Each evaluation of the same candidate has its
own share of α (`share_of_alpha`), so all of them together have an error of at most α. The control
variate is that of prediction-powered inference (Angelopoulos et al., Science 2023, arXiv 2301.09633).

A judge can also order the prompts, so that people see first those of which it is least or most certain.
If the first verdicts of this order were read, they would not be a random sample: a candidate that
is better on these prompts alone would be called better. The prompts are therefore divided into blocks at
random, and the judge orders only those of a block. A block counts once it is complete, and its prompts
then count in random order. The verdicts that count are those of a random order, whatever the judge
is like.

Four assumptions. The prompts are a random sample. The number of verdicts on a prompt is fixed before
the first one, because otherwise somebody could stop adding verdicts to a prompt at a moment when the
candidate is ahead on it.
The order in which prompts are completed does not depend on their verdicts. The answers of the two models
are shown in random order.

Legend: N units, C stakes, B prompts in a block.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property, partial
from typing import TypeVar

import numpy as np

from formatting.numbers import percent

V = TypeVar("V")

GAINS = np.array([0.03, 0.05, 0.08, 0.12, 0.20, 0.30, 0.425])
"""A gain is the win rate minus ½. Each stake is the best one for one of these gains, if there are no ties."""
STAKES = 2 * GAINS
WEIGHTS = np.array([1, 2, 3, 2, 1.5, 1, 0.5]) / 11
"""Weights of the stakes, chosen for gains of 5 to 12 points before any evaluation.

`benchmarks/gate.py` measures how many verdicts they need.
"""
MOST_STAKE = 0.95
"""Largest part of the capital that a bet can lose."""
FIRST_SLOPE, SLOPE_STRENGTH = 0.5, 1.0
"""γ before the first verdict, and the Σd² of verdicts that it is worth."""
FIRST_REST, REST_STRENGTH = 0.85, 20
"""Assumed share of the variance that the judge does not explain, and the verdicts that it is worth."""
LEAST_REST, MOST_REST = 0.3, 1.2
ORDER_BLOCK = 10
"""Prompts per block if a judge orders the prompts."""
FIRST_SHARE = 0.8
"""Part of α for the first evaluation of a candidate. The next has the same part of the rest."""
EXPECTED_GAINS = (0.05, 0.08, 0.12)
"""Gains for which pages show a forecast."""
MOST_FORECAST = 20_000
PRECISION = 1e-6


class Conclusion(StrEnum):
    """The conclusion of an evaluation about the candidate's win rate."""

    BETTER = "better"
    NOT_WORSE = "not worse"
    UNDECIDED = "undecided"
    WORSE = "worse"


def share_of_alpha(alpha: float, attempt: int) -> float:
    """Return the part of α for the attempt, from 1: 4/5, 4/25, 4/125 … of α. All parts sum to α."""
    if attempt < 1:
        raise ValueError(f"Attempts are counted from 1; this is {attempt}.")
    return alpha * FIRST_SHARE * (1 - FIRST_SHARE) ** (attempt - 1)


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt that people are asked about, and its block, if a judge orders the prompts.

    An `absent` prompt was withdrawn, so it may never be completed.
    """

    prompt: Hashable
    block: int
    absent: bool = False


def in_registered_order(
    rows: Iterable[AskedPrompt], prompts: Sequence[Hashable]
) -> list[AskedPrompt]:
    """Return the prompts in the random order of the registration, `prompts`; unknown ones come last."""
    order = {prompt: index for index, prompt in enumerate(prompts)}
    return sorted(rows, key=lambda row: order.get(row.prompt, len(order)))


def complete(
    verdicts: Iterable[tuple[Hashable, V]],
    per_prompt: int | None,
    asked_prompts: Sequence[AskedPrompt] | None = None,
) -> list[V]:
    """Return the verdicts that count, by prompt, in the order in which prompts were completed.

    `verdicts` are (prompt, verdict), in order. A prompt counts once it has `per_prompt` verdicts, and later
    ones do not change it. Without a number, none count.

    If a judge orders the prompts, `asked_prompts` are those that people are asked about, in random order. Then
    a prompt counts once its whole block is complete, and the prompts of a block count in random order.
    """
    by_prompt: dict[Hashable, list[V]] = {}
    order: list[Hashable] = []
    for prompt, verdict in verdicts:
        own = by_prompt.setdefault(prompt, [])
        if len(own) < (per_prompt or 0):
            own.append(verdict)
            if len(own) == per_prompt:
                order.append(prompt)
    if asked_prompts is not None:
        order = _in_blocks(order, asked_prompts)
    return [verdict for prompt in order for verdict in by_prompt[prompt]]


def _in_blocks(
    completed: Sequence[Hashable], asked_prompts: Sequence[AskedPrompt]
) -> list[Hashable]:
    """Return the completed prompts of complete blocks, by the time at which their block was complete."""
    time = {prompt: number for number, prompt in enumerate(completed)}
    blocks: dict[int, list[AskedPrompt]] = {}
    for row in asked_prompts:
        blocks.setdefault(row.block, []).append(row)
    finished = []
    for rows in blocks.values():
        if all(row.prompt in time or row.absent for row in rows):
            prompts = [row.prompt for row in rows if row.prompt in time]
            finished.append((max((time[prompt] for prompt in prompts), default=-1), prompts))
    finished.sort(key=lambda block: block[0])
    return [prompt for _, prompts in finished for prompt in prompts]


def units_of(verdicts: Iterable[tuple[Hashable, float]]) -> np.ndarray:
    """Return the mean verdict of each prompt, (N,), in the order of the prompts' first verdicts.

    `verdicts` holds (prompt, verdict). Raises ValueError for a verdict outside [0, 1].
    """
    by_prompt: dict[Hashable, list[float]] = {}
    for prompt, verdict in verdicts:
        if not 0 <= verdict <= 1:
            raise ValueError(f"A verdict is between 0 and 1; this is {verdict}.")
        by_prompt.setdefault(prompt, []).append(verdict)
    return np.array([sum(values) / len(values) for values in by_prompt.values()], dtype=float)


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt of a block, and the judge's value of it. People judge one prompt of each block."""

    prompt: Hashable
    block: int
    asked: bool
    value: float


def excess_of_prompts(judged: Iterable[JudgedPrompt]) -> dict[Hashable, float] | None:
    """Return dᵢ of each prompt that people judge, or None if a block has no other prompt."""
    judged_by_people: dict[int, JudgedPrompt] = {}
    others: dict[int, list[float]] = {}
    for row in judged:
        if row.asked:
            judged_by_people[row.block] = row
        else:
            others.setdefault(row.block, []).append(row.value)
    if not judged_by_people or judged_by_people.keys() != others.keys():
        return None
    return {
        row.prompt: row.value - sum(others[block]) / len(others[block])
        for block, row in judged_by_people.items()
    }


def judge_value(
    verdict: float, scores: tuple[float | None, float | None], *, graded: bool
) -> float:
    """Return the judge's value in [0, 1], which is high if it prefers the candidate's answer.

    `scores` are those of the baseline and of the candidate. The value of a reward model, which is
    `graded`, is the probability that the candidate's answer wins, by the Bradley-Terry model. The value
    of another judge is its verdict.
    """
    baseline, candidate = scores
    if not graded or baseline is None or candidate is None:
        return verdict
    return 0.5 + 0.5 * math.tanh((candidate - baseline) / 2)


@dataclass(frozen=True)
class Bets:
    """Payoffs y, slopes γ and scales k of the bets on the units of the last axis; (…, N) each.

    Without a judge, the payoffs are the units, and γ = 0 and k = 1.
    """

    payoffs: np.ndarray
    slopes: np.ndarray
    scales: np.ndarray

    def log_growth(self, stake: float, m: float) -> np.ndarray:
        """Return the logarithm of the factor that each unit multiplies the capital by; (…, N)."""
        stakes = np.minimum(stake * self.scales, MOST_STAKE)
        return np.log1p(stakes * (self.payoffs - m) / (m + self.slopes))


def bets_of(units: np.ndarray, excess: np.ndarray | None = None) -> Bets:
    """Return the bets on the units, with the excess d of the judge's value on each unit; (…, N) both."""
    if excess is None:
        return Bets(units, np.zeros_like(units), np.ones_like(units))
    centred = units - 0.5
    slopes = np.clip(
        (SLOPE_STRENGTH * FIRST_SLOPE + _sum_before(centred * excess))
        / (SLOPE_STRENGTH + _sum_before(excess**2)),
        0,
        1,
    )
    strength = REST_STRENGTH / 4  # ¼ is the variance of a verdict without ties
    rest = (strength * FIRST_REST + _sum_before((centred - slopes * excess) ** 2)) / (
        strength + _sum_before(centred**2)
    )
    # The best stake is gain·(½ + γ) / variance. Without a judge, that is 2·gain.
    scales = (1 + 2 * slopes) / np.clip(rest, LEAST_REST, MOST_REST)
    return Bets(units - slopes * excess, slopes, scales)


def _sum_before(values: np.ndarray) -> np.ndarray:
    """Return the sum of the earlier values for each value of the last axis."""
    return values.cumsum(axis=-1) - values


def log_capital(units: np.ndarray, m: float, excess: np.ndarray | None = None) -> np.ndarray:
    """Return log W(m) after each unit of the last axis, against the hypothesis that μ ≤ m.

    `units` has the shape (…, N), as have `excess` and the result. Raises ValueError unless 0 < m < 1.
    """
    if not 0 < m < 1:
        raise ValueError(f"The hypothetical mean is between 0 and 1; this is {m}.")
    bets, total = bets_of(units, excess), np.full(units.shape, -np.inf)
    for stake, weight in zip(STAKES, WEIGHTS, strict=True):  # one at a time, to save memory
        growth = bets.log_growth(stake, m).cumsum(axis=-1)
        np.logaddexp(total, growth + math.log(weight), out=total)
    return total


@dataclass(frozen=True)
class Evidence:
    """The confidence sequence of a win rate and the evidence against three hypotheses, after each unit.

    `log_better`, `log_not_worse` and `log_worse` are log W against "at most ½", "at most ½ - margin" and
    "at least ½". A claim is proven once its value has reached `threshold`. All arrays are (N,).
    `excess` is that of the judge's values, if a judge is a control variate.
    """

    units: np.ndarray
    alpha: float
    margin: float
    log_better: np.ndarray
    log_not_worse: np.ndarray
    log_worse: np.ndarray
    excess: np.ndarray | None = None

    @cached_property
    def low(self) -> np.ndarray:
        """Return the lower bound after each unit, which never falls; (N,). Takes about 0.1 s."""
        return _running_bound(self.units, self.threshold, self.excess)

    @cached_property
    def high(self) -> np.ndarray:
        """Return the upper bound after each unit, which never rises; (N,). Takes about 0.1 s."""
        return 1 - _running_bound(1 - self.units, self.threshold, _negative(self.excess))

    @property
    def threshold(self) -> float:
        return math.log(2 / self.alpha)

    @cached_property
    def payoffs(self) -> np.ndarray:
        """Return the units, corrected by the judge's values if a judge is a control variate; (N,)."""
        return bets_of(self.units, self.excess).payoffs

    @property
    def mean(self) -> float | None:
        return float(self.payoffs.mean()) if len(self.units) else None

    @property
    def interval(self) -> tuple[float, float]:
        """Return the confidence sequence after the last unit, (0, 1) without units."""
        return (float(self.low[-1]), float(self.high[-1])) if len(self.units) else (0.0, 1.0)

    @property
    def conclusion(self) -> Conclusion:
        """Return the strongest claim that is proven; a proven claim is never withdrawn.

        With a probability of at most α, both "better" and "worse" are proven. Then the one that was
        proven earlier counts.
        """
        better, worse = self._first(self.log_better), self._first(self.log_worse)
        if better is not None and (worse is None or better < worse):
            return Conclusion.BETTER
        if worse is not None:
            return Conclusion.WORSE
        not_worse = self._first(self.log_not_worse)
        return Conclusion.UNDECIDED if not_worse is None else Conclusion.NOT_WORSE

    @property
    def decided_after(self) -> int | None:
        """Return the number of prompts after which the conclusion was proven, or None if undecided."""
        value = {
            Conclusion.BETTER: self.log_better,
            Conclusion.NOT_WORSE: self.log_not_worse,
            Conclusion.WORSE: self.log_worse,
        }.get(self.conclusion)
        first = None if value is None else self._first(value)
        return None if first is None else first + 1

    def _first(self, log_capital: np.ndarray) -> int | None:
        reached = np.flatnonzero(log_capital >= self.threshold)
        return int(reached[0]) if len(reached) else None


def evidence_of(
    units: np.ndarray, *, alpha: float, margin: float, excess: np.ndarray | None = None
) -> Evidence:
    """Return the evidence of the units (N,), in the order in which their prompts were completed.

    `excess` (N,) is that of the judge's values on these prompts, if a judge is a control variate.
    Raises ValueError for an α outside (0, 1) or a margin outside (0, ½).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"The error rate is between 0 and 1; this is {alpha}.")
    if not 0 < margin < 0.5:
        raise ValueError(f"The margin is between 0 and 0.5; this is {margin}.")
    return Evidence(
        units=units,
        alpha=alpha,
        margin=margin,
        log_better=log_capital(units, 0.5, excess),
        log_not_worse=log_capital(units, 0.5 - margin, excess),
        log_worse=log_capital(1 - units, 0.5, _negative(excess)),
        excess=excess,
    )


def _negative(excess: np.ndarray | None) -> np.ndarray | None:
    return None if excess is None else -excess


def _running_bound(
    units: np.ndarray, threshold: float, excess: np.ndarray | None = None
) -> np.ndarray:
    """Return the largest m that was refuted so far after each unit, 0 before the first; (N,).

    Bisection is needed only where the capital against the current bound has reached the threshold.
    """
    bounds, bound = np.zeros(len(units)), 0.0
    for n, log_capital_of in enumerate(_log_capitals(units, excess)):
        if log_capital_of(bound + PRECISION) >= threshold:
            bound = bisected(log_capital_of, bound + PRECISION, threshold)
        bounds[n] = bound
    return bounds


def _log_capitals(
    units: np.ndarray, excess: np.ndarray | None
) -> Iterator[Callable[[float], float]]:
    """Yield the function m → log W(m) after each unit. Call each before the next one is read."""
    if excess is None:  # the capital depends only on the number of units with each value
        values, index = np.unique(units, return_inverse=True)
        counts = np.zeros(len(values))
        for value in index:
            counts[value] += 1
            yield lambda m: log_capital_of_counts(values, counts, m)
        return
    bets = bets_of(units, excess)
    for n in range(1, len(units) + 1):
        first = Bets(bets.payoffs[:n], bets.slopes[:n], bets.scales[:n])
        yield partial(_log_capital_of_bets, first)


def bisected(log_capital_of: Callable[[float], float], low: float, threshold: float) -> float:
    """Return the largest refuted m to within PRECISION, given that `low` is refuted."""
    high = 1 - PRECISION
    while high - low > PRECISION:
        middle = (low + high) / 2
        if log_capital_of(middle) >= threshold:
            low = middle
        else:
            high = middle
    return low


def _log_capital_of_bets(bets: Bets, m: float) -> float:
    growth = np.array([bets.log_growth(stake, m).sum() for stake in STAKES])  # (C,)
    return float(np.logaddexp.reduce(growth + np.log(WEIGHTS)))


def log_capital_of_counts(values: np.ndarray, counts: np.ndarray, m: float) -> float:
    """Return log W(m) for the number of units with each value."""
    growth = np.log1p(STAKES[:, None] * (values / m - 1)) @ counts  # (C,)
    return float(np.logaddexp.reduce(growth + np.log(WEIGHTS)))


# --- forecast ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forecast:
    """Prompts after which half and nine tenths of evaluations are decided; None above the maximum."""

    gain: float
    median: int | None
    p90: int | None

    @property
    def rate(self) -> str:
        """Return the win rate as a percentage, for pages."""
        return percent(0.5 + self.gain, 0)


@cache
def forecast(gain: float, alpha: float, most: int = MOST_FORECAST) -> Forecast:
    """Return the number of prompts until "better" is proven, if the win rate is ½ + gain.

    The numbers are exact for one verdict per prompt and no ties. They are computed by following, prompt
    by prompt, the distribution of the number of wins among the evaluations that have not ended. Ties at
    the same gain make an evaluation shorter.
    """
    rate, threshold = 0.5 + gain, math.log(2 / alpha)
    running, ended, median = np.array([1.0]), 0.0, None  # running: probability of 0 … n wins
    values, first = np.array([0.0, 1.0]), 1  # first: the smallest number of wins that proves it
    for n in range(1, most + 1):
        lost, won = np.append(running, 0.0) * (1 - rate), np.append(0.0, running) * rate
        running = lost + won
        if log_capital_of_counts(values, np.array([n - first, first]), 0.5) < threshold:
            first += 1  # one win more is enough, because a win never lowers the capital
        ended += float(running[first:].sum())
        running[first:] = 0.0
        if median is None and ended >= 0.5:
            median = n
        if ended >= 0.9:
            return Forecast(gain, median, n)
    return Forecast(gain, median, None)

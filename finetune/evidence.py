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

Source: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2024,
arXiv 2010.09686, with their diversified Kelly bets. Each evaluation of the same pair of models has its
own share of α (`share_of_alpha`), so all of them together have an error of at most α.

Four assumptions. The prompts are a random sample. The number of verdicts on a prompt is fixed before
the first one, because otherwise somebody could stop adding verdicts to a prompt at a moment when the
candidate is ahead on it.
The order in which prompts are completed does not depend on their verdicts. The answers of the two models
are shown in random order.

Legend: N units, C stakes.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property

import numpy as np

from formatting.numbers import percent

GAINS = np.array([0.03, 0.05, 0.08, 0.12, 0.20, 0.30, 0.425])
"""A gain is the win rate minus ½. Each stake is the best one for one of these gains, if there are no ties."""
STAKES = 2 * GAINS
WEIGHTS = np.array([1, 2, 3, 2, 1.5, 1, 0.5]) / 11
"""Weights of the stakes, chosen for gains of 5 to 12 points before any evaluation.

`benchmarks/gate.py` measures how many verdicts they need.
"""
FIRST_SHARE = 0.8
"""Part of α for the first evaluation of a pair of models. The next has the same part of the rest."""
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


def log_capital(units: np.ndarray, m: float) -> np.ndarray:
    """Return log W(m) after each unit of the last axis, against the hypothesis that μ ≤ m.

    `units` has the shape (…, N), as has the result. Raises ValueError unless 0 < m < 1.
    """
    if not 0 < m < 1:
        raise ValueError(f"The hypothetical mean is between 0 and 1; this is {m}.")
    total = np.full(units.shape, -np.inf)
    for stake, weight in zip(STAKES, WEIGHTS, strict=True):  # one at a time, to save memory
        growth = np.log1p(stake * (units / m - 1)).cumsum(axis=-1)
        np.logaddexp(total, growth + math.log(weight), out=total)
    return total


@dataclass(frozen=True)
class Evidence:
    """The confidence sequence of a win rate and the evidence against three hypotheses, after each unit.

    `log_better`, `log_not_worse` and `log_worse` are log W against "at most ½", "at most ½ - margin" and
    "at least ½". A claim is proven once its value has reached `threshold`. All arrays are (N,).
    """

    units: np.ndarray
    alpha: float
    margin: float
    log_better: np.ndarray
    log_not_worse: np.ndarray
    log_worse: np.ndarray

    @cached_property
    def low(self) -> np.ndarray:
        """Return the lower bound after each unit, which never falls; (N,). Takes about 0.1 s."""
        return _running_bound(self.units, self.threshold)

    @cached_property
    def high(self) -> np.ndarray:
        """Return the upper bound after each unit, which never rises; (N,). Takes about 0.1 s."""
        return 1 - _running_bound(1 - self.units, self.threshold)

    @property
    def threshold(self) -> float:
        return math.log(2 / self.alpha)

    @property
    def mean(self) -> float | None:
        return float(self.units.mean()) if len(self.units) else None

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


def evidence_of(units: np.ndarray, *, alpha: float, margin: float) -> Evidence:
    """Return the evidence of the units (N,), in the order in which their prompts were completed.

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
        log_better=log_capital(units, 0.5),
        log_not_worse=log_capital(units, 0.5 - margin),
        log_worse=log_capital(1 - units, 0.5),
    )


def _running_bound(units: np.ndarray, threshold: float) -> np.ndarray:
    """Return the largest m that was refuted so far after each unit, 0 before the first; (N,).

    Bisection is needed only where the capital against the current bound has reached the threshold.
    """
    bounds, bound = np.zeros(len(units)), 0.0
    values, index = np.unique(units, return_inverse=True)
    counts = np.zeros(len(values))
    for n, value in enumerate(index):
        counts[value] += 1
        if _log_capital_of(values, counts, bound + PRECISION) >= threshold:
            bound = _bisected(values, counts, bound + PRECISION, threshold)
        bounds[n] = bound
    return bounds


def _bisected(values: np.ndarray, counts: np.ndarray, low: float, threshold: float) -> float:
    """Return the largest refuted m to within PRECISION, given that `low` is refuted."""
    high = 1 - PRECISION
    while high - low > PRECISION:
        middle = (low + high) / 2
        if _log_capital_of(values, counts, middle) >= threshold:
            low = middle
        else:
            high = middle
    return low


def _log_capital_of(values: np.ndarray, counts: np.ndarray, m: float) -> float:
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
        if _log_capital_of(values, np.array([n - first, first]), 0.5) < threshold:
            first += 1  # one win more is enough, because a win never lowers the capital
        ended += float(running[first:].sum())
        running[first:] = 0.0
        if median is None and ended >= 0.5:
            median = n
        if ended >= 0.9:
            return Forecast(gain, median, n)
    return Forecast(gain, median, None)

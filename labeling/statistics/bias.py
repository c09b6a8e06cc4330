"""Reviewers' biases, with intervals: position on the page, response length and speed.

A bias is a difference between shares of pairs won, so 0.05 means five percentage points. A tie is half
a win for each response.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, factorial, isfinite, sqrt
from typing import Any

import numpy as np

from labeling.statistics.bootstrap import Bootstrap, by_cluster, number_keys
from labeling.statistics.intervals import Z95, wilson
from labeling.statistics.pairs import Pairs


@dataclass(frozen=True)
class Meter:
    """A figure with its 95% interval, computed over `count` pairs or rankings.

    If `value` is None, `reason` says why. If the interval has no upper bound, `high` is infinite.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int
    reason: str = ""

    @property
    def excludes_zero(self) -> bool:
        return self.value is not None and (self.low > 0 or self.high < 0)  # type: ignore[operator]

    def as_json(self) -> dict[str, Any]:
        ends = [end if end is not None and isfinite(end) else None for end in (self.low, self.high)]
        return {
            "value": self.value,
            "interval": None if self.value is None else ends,
            "count": self.count,
            "reason": self.reason,
        }


NOT_SHOWN = "No ranking has the order in which its responses were shown."
NO_LENGTH = "No pair of responses differs in length."
NO_OTHER = "Nobody else judged the same pairs."
NO_TIME = "No active time was measured."
NO_PEER = "Nobody else's time was measured."


class PairBiases:
    """Position and length biases, computed from pairs.

    `shown_orders[n]` is the order in which the responses of ranking n were shown, empty if unknown.
    `lengths` maps a response to its length. `cluster[t]` is the number of task t's cluster.
    """

    def __init__(
        self,
        pairs: Pairs,
        shown_orders: Sequence[Sequence[int]],
        lengths: dict[int, int],
        cluster: np.ndarray,
    ) -> None:
        self.pairs = pairs
        self.cluster = cluster[pairs.task[pairs.pair]] if len(pairs) else np.zeros(0, dtype=int)
        self.clusters = int(cluster.max(initial=-1)) + 1
        self.bootstrap = Bootstrap(self.clusters)
        self.won = (pairs.outcome.astype(float) + 1) / 2  # by the first response of the pair
        self.first_place, self.second_place = _places(pairs, shown_orders)
        self.longer = _longer(pairs, lengths)[pairs.pair]

    def position(self, reviewer: int | None = None) -> Meter:
        """Return the share of pairs that the response shown first wins, minus 0.5."""
        rows = self._rows(reviewer) & (self.first_place >= 0)
        earlier = self.first_place[rows] < self.second_place[rows]
        won = np.where(earlier, self.won[rows], 1 - self.won[rows])
        return self._mean(won - 0.5, rows, NOT_SHOWN)

    def by_position(self) -> list[Meter]:
        """Return, for each position on the page, the share of pairs that the response in it wins."""
        rows = np.flatnonzero(self.first_place >= 0)
        positions = np.r_[self.first_place[rows], self.second_place[rows]]
        won = np.r_[self.won[rows], 1 - self.won[rows]]
        rows = np.r_[rows, rows]
        return [
            self._mean(won[positions == n], rows[positions == n], NOT_SHOWN, around=0.5)
            for n in range(int(positions.max(initial=-1)) + 1)
        ]

    def length(self) -> Meter:
        """Return the share of pairs that the longer response wins, minus 0.5.

        This alone does not show a bias, because longer responses may be better.
        """
        rows = self.longer != 0
        return self._mean(self._longer_won(rows) - 0.5, rows, NO_LENGTH)

    def length_of(self, reviewer: int) -> Meter:
        """Return the longer response's share of wins with this reviewer, minus that with the others.

        Both shares are over the same pairs, so that differences in quality cancel out.
        """
        rows = self.longer != 0
        total = np.bincount(self.pairs.pair[rows], self._longer_won(rows), len(self.pairs))
        judged = np.bincount(self.pairs.pair[rows], minlength=len(self.pairs))
        own = rows & self._rows(reviewer)
        own &= judged[self.pairs.pair] > 1
        own_won, pair = self._longer_won(own), self.pairs.pair[own]
        others_won = (total[pair] - own_won) / np.maximum(judged[pair] - 1, 1)
        reason = NO_OTHER if np.any(rows) else NO_LENGTH
        return self._mean(own_won - others_won, own, reason, spread=1.0)

    def _rows(self, reviewer: int | None) -> np.ndarray:
        if reviewer is None:
            return np.ones(len(self.pairs.pair), dtype=bool)
        return self.pairs.reviewer == reviewer

    def _longer_won(self, rows: np.ndarray) -> np.ndarray:
        return np.where(self.longer[rows] > 0, self.won[rows], 1 - self.won[rows])

    def _mean(
        self,
        values: np.ndarray,
        rows: np.ndarray,
        reason: str,
        *,
        around: float = 0.0,
        spread: float = 0.5,
    ) -> Meter:
        if not len(values):
            return Meter(None, None, None, 0, reason)
        table = np.column_stack([values - around, np.ones(len(values))])
        sums = by_cluster(table, self.cluster[rows], self.clusters)
        low, high = self.bootstrap.interval(sums, _share, lowest=-spread, highest=spread)
        return Meter(float(values.mean()), low + around, high + around, len(values))


def _share(totals: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals[:, 0] / np.where(totals[:, 1] == 0, np.nan, totals[:, 1])


def _places(pairs: Pairs, shown_orders: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions on the page of both responses in each judgment, −1 if unknown."""
    positions = [{response: n for n, response in enumerate(order)} for order in shown_orders]
    places = np.full((2, len(pairs.pair)), -1, dtype=np.int64)
    first, second = pairs.first[pairs.pair].tolist(), pairs.second[pairs.pair].tolist()
    for row, (ranking, i, j) in enumerate(zip(pairs.ranking.tolist(), first, second, strict=True)):
        position = positions[ranking]
        if i in position and j in position:
            places[0, row], places[1, row] = position[i], position[j]
    return places[0], places[1]


def _longer(pairs: Pairs, lengths: dict[int, int]) -> np.ndarray:
    """Return +1 if a pair's first response is longer, −1 if the second is, otherwise 0.  → (P,)"""
    signs = [
        np.sign(lengths[i] - lengths[j]) if i in lengths and j in lengths else 0
        for i, j in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    ]
    return np.array(signs, dtype=np.int64)


# --- speed ----------------------------------------------------------------------------------------


def speeds(seconds: dict[Any, list[float]], lengths: dict[Any, list[float]]) -> dict[Any, Meter]:
    """Return each reviewer's median time per character, divided by that of the other reviewers.

    The divisor is the median of the others' medians, which one slow task or one unusual reviewer does not
    affect. The interval only reflects the uncertainty of the reviewer's own median.
    """
    rates = {
        who: np.sort(np.array(seconds[who]) / np.maximum(lengths[who], 1.0)) for who in seconds
    }
    medians = {who: float(np.median(rate)) for who, rate in rates.items() if len(rate)}
    meters = {}
    for who, rate in rates.items():
        others = [median for other, median in medians.items() if other != who]
        if not len(rate) or not others:
            reason = NO_PEER if len(rate) else NO_TIME
            meters[who] = Meter(None, None, None, len(rate), reason)
            continue
        usual = max(float(np.median(others)), 1e-9)
        low, high = median_interval(rate)
        meters[who] = Meter(medians[who] / usual, low / usual, high / usual, len(rate))
    return meters


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of the median of sorted values, whatever their distribution.

    The bounds are order statistics (Conover, "Practical Nonparametric Statistics", 1999, section 3.2).
    With fewer than six values, return 0 and infinity.
    """
    count = len(values)
    if count < 6:
        return 0.0, float("inf")
    if count > 1000:
        reach = Z95 * sqrt(count) / 2
        below = max(0, int(count / 2 - reach) - 1)
    else:
        below, tail = 0, 1.0
        while tail + comb(count, below + 1) <= 0.025 * 2**count:
            below += 1
            tail += comb(count, below)
    return float(values[below]), float(values[count - 1 - below])


# --- repeating the order shown --------------------------------------------------------------------


def as_shown(
    tiers: Sequence[Sequence[Sequence[int]]], shown_orders: Sequence[Sequence[int]]
) -> Meter:
    """Return the share of rankings that repeat the order shown, minus the share expected by chance.

    The chance for a ranking of K responses is 1/K!.
    """
    same, expected = 0, 0.0
    rankings = [(t, order) for t, order in zip(tiers, shown_orders, strict=True) if order]
    for own_tiers, order in rankings:
        same += [list(tier) for tier in own_tiers] == [[response] for response in order]
        expected += 1 / factorial(len(order))
    if not rankings:
        return Meter(None, None, None, 0, NOT_SHOWN)
    chance = expected / len(rankings)
    low, high = wilson(same / len(rankings), len(rankings))
    return Meter(same / len(rankings) - chance, low - chance, high - chance, len(rankings))


def cluster_numbers(tasks: Sequence[Any], prompts: dict[Any, Any]) -> np.ndarray:
    """Return the number of each task's prompt, counted from 0."""
    return number_keys(prompts[task] for task in tasks)[0]

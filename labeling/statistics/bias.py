"""What sways reviewers that should not: the place on the page, length, haste. With intervals.

A bias is a difference in shares of pairs won: 0.05 is five points. A tie gives half a win to each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, factorial, isfinite, sqrt
from typing import Any

import numpy as np

from labeling.statistics.bootstrap import Bootstrap, by_cluster, numbered
from labeling.statistics.intervals import Z95, wilson
from labeling.statistics.pairs import Pairs


@dataclass(frozen=True)
class Meter:
    """A figure with its 95 % interval, over `count` pairs or rankings; None when `reason` says why.

    `high` is infinite where nothing bounds it.
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


NOT_SHOWN = "No ranking says in which order its responses were shown."
NO_LENGTH = "No pair of responses differs in length."
NO_OTHER = "No one else judged the same pairs."
NO_TIME = "No active time was measured."
NO_PEER = "No one else's time was measured."


class Sways:
    """Pairs with the order in which they were shown and the lengths of the responses.

    `shown[n]` is the order of ranking n, empty where it is not known; `lengths` maps a response to
    its length; `cluster[t]` numbers what task t hangs together with.
    """

    def __init__(
        self,
        pairs: Pairs,
        shown: Sequence[Sequence[int]],
        lengths: dict[int, int],
        cluster: np.ndarray,
    ) -> None:
        self.pairs = pairs
        self.cluster = cluster[pairs.task[pairs.pair]] if len(pairs) else np.zeros(0, dtype=int)
        self.clusters = int(cluster.max(initial=-1)) + 1
        self.bootstrap = Bootstrap(self.clusters)
        self.won = (pairs.outcome.astype(float) + 1) / 2  # by the first of the pair
        self.first_place, self.second_place = _places(pairs, shown)
        self.longer = _longer(pairs, lengths)[pairs.pair]

    def position(self, reviewer: int | None = None) -> Meter:
        """How much more often the one shown earlier wins than half the time."""
        known = self._rows(reviewer) & (self.first_place >= 0)
        earlier = self.first_place[known] < self.second_place[known]
        won = np.where(earlier, self.won[known], 1 - self.won[known])
        return self._mean(won - 0.5, known, NOT_SHOWN)

    def by_position(self) -> list[Meter]:
        """For each place on the page, first to last: the share of pairs that the response there won."""
        known = np.flatnonzero(self.first_place >= 0)
        places = np.r_[self.first_place[known], self.second_place[known]]
        won = np.r_[self.won[known], 1 - self.won[known]]
        rows = np.r_[known, known]
        return [
            self._mean(won[places == place], rows[places == place], NOT_SHOWN, around=0.5)
            for place in range(int(places.max(initial=-1)) + 1)
        ]

    def length(self) -> Meter:
        """How much more often the longer wins than half the time. It may deserve to."""
        known = self.longer != 0
        return self._mean(self._longer_won(known) - 0.5, known, NO_LENGTH)

    def length_of(self, reviewer: int) -> Meter:
        """How much more often the longer wins with this reviewer than with others on the same pairs.

        What the longer deserves cancels out.
        """
        known = self.longer != 0
        total = np.bincount(self.pairs.pair[known], self._longer_won(known), len(self.pairs))
        judged = np.bincount(self.pairs.pair[known], minlength=len(self.pairs))
        own = known & self._rows(reviewer)
        own &= judged[self.pairs.pair] > 1
        said, pair = self._longer_won(own), self.pairs.pair[own]
        others = (total[pair] - said) / np.maximum(judged[pair] - 1, 1)
        reason = NO_OTHER if np.any(known) else NO_LENGTH
        return self._mean(said - others, own, reason, spread=1.0)

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


def _places(pairs: Pairs, shown: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The place on the page of both responses of each statement, −1 where it is not known."""
    places = [{response: place for place, response in enumerate(order)} for order in shown]
    found = np.full((2, len(pairs.pair)), -1, dtype=np.int64)
    first, second = pairs.first[pairs.pair].tolist(), pairs.second[pairs.pair].tolist()
    for row, (ranking, one, two) in enumerate(
        zip(pairs.ranking.tolist(), first, second, strict=True)
    ):
        place = places[ranking]
        if one in place and two in place:
            found[0, row], found[1, row] = place[one], place[two]
    return found[0], found[1]


def _longer(pairs: Pairs, lengths: dict[int, int]) -> np.ndarray:
    """+1 where the first of a pair is longer, −1 where the second is, 0 for neither or not known."""
    signs = [
        np.sign(lengths[one] - lengths[two]) if one in lengths and two in lengths else 0
        for one, two in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    ]
    return np.array(signs, dtype=np.int64)


# --- haste ---------------------------------------------------------------------------------------


def speeds(seconds: dict[Any, list[float]], lengths: dict[Any, list[float]]) -> dict[Any, Meter]:
    """Each reviewer's median of seconds per character, as a multiple of what is usual for others.

    Usual is the median of the other reviewers' medians, so that neither one slow task nor one
    strange reviewer moves it. The interval is that of the reviewer's own median.
    """
    rates = {
        who: np.sort(np.array(seconds[who]) / np.maximum(lengths[who], 1.0)) for who in seconds
    }
    medians = {who: float(np.median(rate)) for who, rate in rates.items() if len(rate)}
    found = {}
    for who, rate in rates.items():
        others = [median for other, median in medians.items() if other != who]
        if not len(rate) or not others:
            reason = NO_PEER if len(rate) else NO_TIME
            found[who] = Meter(None, None, None, len(rate), reason)
            continue
        usual = max(float(np.median(others)), 1e-9)
        low, high = median_interval(rate)
        found[who] = Meter(medians[who] / usual, low / usual, high / usual, len(rate))
    return found


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """Of sorted values, by order statistics: it holds the median with 95 % whatever the shape.

    Conover, "Practical Nonparametric Statistics" (1999), section 3.2. Fewer than six values cannot:
    then it is the whole line from 0 up.
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


# --- giving back what was shown ------------------------------------------------------------------


def as_shown(tiers: Sequence[Sequence[Sequence[int]]], shown: Sequence[Sequence[int]]) -> Meter:
    """How much more often a ranking is just the order on the page than luck gives, 1/K! for K."""
    same, luck = 0, 0.0
    known = [(t, order) for t, order in zip(tiers, shown, strict=True) if order]
    for order_of_tiers, order in known:
        same += [list(tier) for tier in order_of_tiers] == [[response] for response in order]
        luck += 1 / factorial(len(order))
    if not known:
        return Meter(None, None, None, 0, NOT_SHOWN)
    usual = luck / len(known)
    low, high = wilson(same / len(known), len(known))
    return Meter(same / len(known) - usual, low - usual, high - usual, len(known))


def cluster_numbers(tasks: Sequence[Any], prompts: dict[Any, Any]) -> np.ndarray:
    """The prompt of each task, as numbers."""
    return numbered(prompts[task] for task in tasks)[0]

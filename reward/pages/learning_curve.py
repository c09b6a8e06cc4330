"""What the page of a reward model makes of its learning curve: a plot and two sentences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log
from typing import Any

from formatting.numbers import percent, percent_range

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 400, 12, 216
TICKS_AT_MOST = 6
CLOSE = 34
"""Labels of the axis nearer to each other than this, in pixels, would run together."""


@dataclass(frozen=True)
class Mark:
    """A measured point with its interval."""

    x: str
    y: str
    low: str
    high: str
    said: str


@dataclass(frozen=True)
class Level:
    y: str
    label: str


@dataclass(frozen=True)
class Place:
    x: str
    label: str


@dataclass(frozen=True)
class Plot:
    """Accuracy over the number of rankings, on a logarithmic axis. All places as text."""

    marks: list[Mark]
    band: str
    fitted: str
    followed: str
    now: str
    ceiling: str | None
    levels: list[Level]
    places: list[Place]
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Row:
    said: str
    rankings: int
    accuracy: str
    interval: str
    gain: str


@dataclass(frozen=True)
class Learning:
    plot: Plot | None
    rows: list[Row]
    answer: str
    reason: str


def learning(report: Mapping[str, Any]) -> Learning | None:
    """None where the run was not asked for a curve."""
    found = report.get("learning_curve")
    if not found:
        return None
    ceiling = (report.get("reviewer_agreement") or {}).get("value")
    return Learning(
        plot=plot(found, ceiling),
        rows=[*map(_measured, found["points"]), *map(_forecast, found["forecast"])],
        answer=answer(found["one_point"]),
        reason=found["reason"] or "",
    )


def answer(one_point: Mapping[str, Any] | None) -> str:
    """How many more rankings a point costs, in words."""
    if not one_point:
        return ""
    if one_point["rankings"] is None:
        return one_point["reason"]
    low, high = one_point["interval"]
    ends = f"between {low:,} and {high:,}" if high is not None else f"{low:,} or more"
    return (
        f"About {one_point['rankings']:,} more rankings for one point of accuracy ({ends}, by 95% of "
        "the curves that explain the points)."
    )


def _measured(point: Mapping[str, Any]) -> Row:
    accuracy = point["accuracy"]
    value = percent(accuracy["value"])
    said = f"trained on {point['prompts']:,} prompts"
    return Row(said, point["rankings"], value, _interval(accuracy["interval"]), "")


def _forecast(row: Mapping[str, Any]) -> Row:
    low, high = row["gain"]["interval"]
    return Row(
        said=f"forecast for {row['times']} times as many",
        rankings=row["rankings"],
        accuracy=percent(row["value"]),
        interval=_interval(row["interval"]),
        gain=f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−"),
    )


def _interval(ends: Sequence[float] | None) -> str:
    return percent_range(ends)


# --- the plot -------------------------------------------------------------------------------------


def plot(found: Mapping[str, Any], ceiling: float | None = None) -> Plot | None:
    """None for fewer than two measured points."""
    points = [p for p in found["points"] if p["accuracy"]["value"] is not None]
    if len(points) < 2:
        return None
    band = found.get("band") or []
    axes = Axes.over(points, band, ceiling)
    now = points[-1]["rankings"]
    before = [row for row in band if row["rankings"] <= now]
    after = [*before[-1:], *(row for row in band if row["rankings"] > now)]
    return Plot(
        marks=[axes.mark(point) for point in points],
        band=axes.area(band),
        fitted=axes.line(before),
        followed=axes.line(after),
        now=axes.x(now),
        ceiling=None if ceiling is None else axes.y(ceiling),
        levels=axes.levels(),
        places=axes.places([row["rankings"] for row in [*points, *found["forecast"]]]),
    )


@dataclass(frozen=True)
class Axes:
    least: float
    most: float
    low: float
    high: float

    @classmethod
    def over(
        cls, points: Iterable[Mapping[str, Any]], band: Iterable[Mapping[str, Any]],
        ceiling: float | None,
    ) -> "Axes":  # fmt: skip
        rows = [(p["rankings"], p["accuracy"]["interval"]) for p in points]
        rows += [(row["rankings"], row["interval"]) for row in band]
        ends = [end for _, interval in rows for end in interval or []]
        ends += [] if ceiling is None else [ceiling]
        low, high = min(ends, default=0.0), max(ends, default=1.0)
        return cls(
            least=max(1, min(rankings for rankings, _ in rows)),
            most=max(rankings for rankings, _ in rows),
            low=max(0.0, floor(low * 20) / 20),
            high=min(1.0, ceil(high * 20) / 20),
        )

    def x(self, rankings: float) -> str:
        return f"{self._x(rankings):.1f}"

    def _x(self, rankings: float) -> float:
        share = log(max(rankings, self.least) / self.least) / (log(self.most / self.least) or 1)
        return LEFT + (RIGHT - LEFT) * share

    def y(self, accuracy: float) -> str:
        share = (accuracy - self.low) / ((self.high - self.low) or 1)
        return f"{BOTTOM - (BOTTOM - TOP) * min(1.0, max(0.0, share)):.1f}"

    def mark(self, point: Mapping[str, Any]) -> Mark:
        accuracy = point["accuracy"]
        low, high = accuracy["interval"] or [accuracy["value"]] * 2
        said = f"{point['rankings']:,} rankings: {percent(accuracy['value'])}, {_interval([low, high])}"
        return Mark(
            self.x(point["rankings"]), self.y(accuracy["value"]), self.y(low), self.y(high), said
        )

    def line(self, band: Sequence[Mapping[str, Any]]) -> str:
        return " ".join(f"{self.x(row['rankings'])},{self.y(row['value'])}" for row in band)

    def area(self, band: Sequence[Mapping[str, Any]]) -> str:
        upper = [f"{self.x(row['rankings'])},{self.y(row['interval'][1])}" for row in band]
        lower = [f"{self.x(row['rankings'])},{self.y(row['interval'][0])}" for row in band]
        return " ".join([*upper, *reversed(lower)])

    def levels(self) -> list[Level]:
        step = 0.05 if self.high - self.low <= 0.05 * TICKS_AT_MOST else 0.1
        first = ceil(round(self.low / step, 6))
        count = int(round((self.high - first * step) / step, 6)) + 1
        values = [(first + number) * step for number in range(count)]
        return [Level(self.y(value), percent(value, 0)) for value in values]

    def places(self, rankings: Iterable[int]) -> list[Place]:
        """The largest first, so that those in each other's way at the small end go unnamed."""
        chosen: list[int] = []
        for one in sorted(set(rankings), reverse=True):
            if not chosen or self._x(chosen[-1]) - self._x(one) >= CLOSE:
                chosen.append(one)
        return [Place(self.x(one), f"{one:,}") for one in reversed(chosen)]

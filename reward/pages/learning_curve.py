"""The learning curve on the page of a reward model: a plot, a table and a sentence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log

from formatting.numbers import percent, percent_range
from reward.evaluation.schema import (
    BandPoint,
    CurvePoint,
    Forecast,
    LearningCurve,
    OnePoint,
    RewardReport,
)

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 400, 12, 216
MAX_TICKS = 6
CLOSE = 34
"""The minimum distance between two labels on the axis, in pixels."""


@dataclass(frozen=True)
class Mark:
    """A measured point with its interval."""

    x: str
    y: str
    low: str
    high: str
    title: str


@dataclass(frozen=True)
class Level:
    y: str
    label: str


@dataclass(frozen=True)
class AxisLabel:
    x: str
    label: str


@dataclass(frozen=True)
class Plot:
    """A plot of the accuracy over the number of rankings, on a logarithmic axis. Positions are text."""

    marks: list[Mark]
    band: str
    fitted: str
    extrapolated: str
    now: str
    ceiling: str | None
    levels: list[Level]
    axis_labels: list[AxisLabel]
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Row:
    label: str
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


def learning(report: RewardReport) -> Learning | None:
    """Return the learning curve for the page, or None if the run did not measure one."""
    curve = report.get("learning_curve")
    if not curve:
        return None
    agreement = report.get("reviewer_agreement")
    return Learning(
        plot=plot(curve, agreement and agreement["value"]),
        rows=[*map(_measured, curve["points"]), *map(_forecast, curve["forecast"])],
        answer=answer(curve["one_point"]),
        reason=curve["reason"] or "",
    )


def answer(one_point: OnePoint | None) -> str:
    """Return a sentence with the number of rankings that would add a point of accuracy."""
    if not one_point:
        return ""
    if one_point["rankings"] is None:
        return one_point["reason"] or ""
    low, high = one_point["interval"]
    ends = f"between {low:,} and {high:,}" if high is not None else f"{low:,} or more"
    return (
        f"One more point of accuracy needs about {one_point['rankings']:,} more rankings ({ends} with "
        "95% probability)."
    )


def _measured(point: CurvePoint) -> Row:
    accuracy = point["accuracy"]
    value = percent(accuracy["value"])
    label = f"Trained on {point['prompts']:,} prompts"
    return Row(label, point["rankings"], value, _interval(accuracy["interval"]), "")


def _forecast(row: Forecast) -> Row:
    low, high = row["gain"]["interval"]
    return Row(
        label=f"Forecast for {row['times']} times as many",
        rankings=row["rankings"],
        accuracy=percent(row["value"]),
        interval=_interval(row["interval"]),
        gain=f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−"),
    )


def _interval(ends: Sequence[float] | None) -> str:
    return percent_range(ends)


# --- the plot -------------------------------------------------------------------------------------


def plot(curve: LearningCurve, ceiling: float | None = None) -> Plot | None:
    """Return the plot, or None for fewer than two measured points."""
    points = [p for p in curve["points"] if p["accuracy"]["value"] is not None]
    if len(points) < 2:
        return None
    band = curve.get("band") or []
    axes = Axes.over(points, band, ceiling)
    now = points[-1]["rankings"]
    before = [row for row in band if row["rankings"] <= now]
    after = [*before[-1:], *(row for row in band if row["rankings"] > now)]
    return Plot(
        marks=[axes.mark(point) for point in points],
        band=axes.area(band),
        fitted=axes.line(before),
        extrapolated=axes.line(after),
        now=axes.x(now),
        ceiling=None if ceiling is None else axes.y(ceiling),
        levels=axes.levels(),
        axis_labels=axes.labels(
            [p["rankings"] for p in points] + [f["rankings"] for f in curve["forecast"]]
        ),
    )


@dataclass(frozen=True)
class Axes:
    least: float
    most: float
    low: float
    high: float

    @classmethod
    def over(
        cls, points: Iterable[CurvePoint], band: Iterable[BandPoint], ceiling: float | None
    ) -> "Axes":
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

    def mark(self, point: CurvePoint) -> Mark:
        value = point["accuracy"]["value"] or 0.0
        low, high = point["accuracy"]["interval"] or [value, value]
        title = f"{point['rankings']:,} rankings: {percent(value)}, {_interval([low, high])}"
        return Mark(self.x(point["rankings"]), self.y(value), self.y(low), self.y(high), title)

    def line(self, band: Sequence[BandPoint]) -> str:
        return " ".join(f"{self.x(row['rankings'])},{self.y(row['value'])}" for row in band)

    def area(self, band: Sequence[BandPoint]) -> str:
        upper = [f"{self.x(row['rankings'])},{self.y(row['interval'][1])}" for row in band]
        lower = [f"{self.x(row['rankings'])},{self.y(row['interval'][0])}" for row in band]
        return " ".join([*upper, *reversed(lower)])

    def levels(self) -> list[Level]:
        step = 0.05 if self.high - self.low <= 0.05 * MAX_TICKS else 0.1
        first = ceil(round(self.low / step, 6))
        count = int(round((self.high - first * step) / step, 6)) + 1
        values = [(first + number) * step for number in range(count)]
        return [Level(self.y(value), percent(value, 0)) for value in values]

    def labels(self, rankings: Iterable[int]) -> list[AxisLabel]:
        """Return the labels of the axis. If two would overlap, the label of the smaller number is empty."""
        labelled: list[int] = []
        for number in sorted(set(rankings), reverse=True):
            if not labelled or self._x(labelled[-1]) - self._x(number) >= CLOSE:
                labelled.append(number)
        return [AxisLabel(self.x(number), f"{number:,}") for number in reversed(labelled)]

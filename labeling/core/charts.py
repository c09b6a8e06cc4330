"""Coordinates of charts, which templates draw as SVG.

Coordinates are already formatted as text, because a template would format numbers for the locale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any, Protocol

WIDTH, HEIGHT = 640, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 26


class Figure(Protocol):
    """A value with the bounds of its interval. All three are None if the value is undefined."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


@dataclass(frozen=True)
class Track:
    """An interval on a horizontal axis, in percent. `mark` is the position of the expected value."""

    at: str
    low: str
    width: str
    mark: str
    away: bool
    """Whether the expected value is outside the interval."""


def track(figure: Figure, lowest: float, highest: float, mark: float) -> Track | None:
    """Return the figure's track, clipped to the axis from `lowest` to `highest`, or None if undefined."""
    if figure.value is None or figure.low is None or figure.high is None:
        return None

    def position(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - lowest) / (highest - lowest)))

    low, high = position(figure.low), position(figure.high)
    return Track(
        at=f"{position(figure.value):.2f}%",
        low=f"{low:.2f}%",
        width=f"{max(0.4, high - low):.2f}%",
        mark=f"{position(mark):.2f}%",
        away=not figure.low <= mark <= figure.high,
    )


@dataclass(frozen=True)
class Dot:
    """A point of a trend, in SVG coordinates. Only a `named` dot has a label on the axis."""

    x: str
    y: str
    low: str
    high: str
    label: Any
    value: float
    bounds: tuple[float, float]
    named: bool


@dataclass(frozen=True)
class Trend:
    """A chart of values over time with their intervals."""

    dots: Sequence[Dot]
    line: str
    ticks: Sequence[tuple[str, float]]
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM
    text: int = HEIGHT - 6
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Axis:
    """A vertical axis from `low` to `high`, with a tick at each multiple of `step`."""

    low: float
    high: float
    step: float

    def ticks(self) -> list[float]:
        steps = round((self.high - self.low) / self.step)
        return [self.low + self.step * number for number in range(steps + 1)]


MAX_LABELS = 8
MOST_STEPS = 5
FLOORS = {0.5: 0.1, 0.0: 0.25, -0.25: 0.25, -0.5: 0.25, -1.0: 0.5}
"""The possible lower ends of the axis of a share or coefficient, with the distance between its ticks."""


def share_axis(lowest: float) -> Axis:
    """Return an axis from one of FLOORS to 1."""
    low = next(edge for edge in FLOORS if lowest >= edge or edge == -1.0)
    return Axis(low, 1.0, FLOORS[low])


def axis_around(lowest: float, highest: float) -> Axis:
    """Return an axis around the values with at most MOST_STEPS + 1 steps of 1, 2 or 5 times a power of 10."""
    span = (highest - lowest) or abs(highest) or 1.0
    power = 10.0 ** floor(log10(span / MOST_STEPS))
    step = next(power * size for size in (1, 2, 5, 10) if power * size * MOST_STEPS >= span)
    low, high = floor(lowest / step) * step, ceil(highest / step) * step
    return Axis(low, high if high > low else low + step, step)


def trend(
    points: Sequence[tuple[Any, Figure]], axis: Axis | None = None, width: int = WIDTH
) -> Trend | None:
    """Return the trend of those points that have a value, or None if there are fewer than two.

    Values outside the axis are drawn at its end. Without an axis, they are shares or coefficients.
    """
    defined = [(label, figure) for label, figure in points if figure.value is not None]
    if len(defined) < 2:
        return None
    axis = axis or share_axis(min(float(figure.low or 0) for _, figure in defined))
    step = (width - LEFT - RIGHT) / len(defined)

    def y(value: float) -> float:
        share = (min(axis.high, max(axis.low, value)) - axis.low) / (axis.high - axis.low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    every = -(-len(defined) // MAX_LABELS)
    dots = [
        _dot(label, figure, LEFT + step * (n + 0.5), y, (len(defined) - 1 - n) % every == 0)
        for n, (label, figure) in enumerate(defined)
    ]
    return Trend(
        dots=dots,
        line=" ".join(f"{dot.x},{dot.y}" for dot in dots),
        ticks=[(f"{y(tick):.1f}", round(tick, 6)) for tick in axis.ticks()],
        right=width - RIGHT,
        width=width,
    )


def _dot(label: Any, figure: Any, x: float, y: Any, named: bool) -> Dot:
    return Dot(
        x=f"{x:.1f}",
        y=f"{y(figure.value):.1f}",
        low=f"{y(figure.low):.1f}",
        high=f"{y(figure.high):.1f}",
        label=label,
        value=figure.value,
        bounds=(figure.low, figure.high),
        named=named,
    )

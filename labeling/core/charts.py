"""Coordinates of charts, which templates draw as SVG.

Coordinates are already formatted as text, because a template would format numbers for the locale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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


MAX_LABELS = 8
FLOORS = {0.5: 0.1, 0.0: 0.25, -0.25: 0.25, -0.5: 0.25, -1.0: 0.5}
"""The possible lower ends of the vertical axis, which ends at 1, with the distance between its ticks."""


def trend(points: Sequence[tuple[Any, Figure]]) -> Trend | None:
    """Return the trend of those points that have a value, or None if there are fewer than two."""
    defined = [(label, figure) for label, figure in points if figure.value is not None]
    if len(defined) < 2:
        return None
    lowest = min(float(figure.low or 0) for _, figure in defined)
    floor = next(edge for edge in FLOORS if lowest >= edge or edge == -1.0)
    step = (WIDTH - LEFT - RIGHT) / len(defined)

    def y(value: float) -> float:
        share = (min(1.0, max(floor, value)) - floor) / (1 - floor)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    every = -(-len(defined) // MAX_LABELS)
    dots = [
        _dot(label, figure, LEFT + step * (n + 0.5), y, (len(defined) - 1 - n) % every == 0)
        for n, (label, figure) in enumerate(defined)
    ]
    ticks = [floor + FLOORS[floor] * n for n in range(round((1 - floor) / FLOORS[floor]) + 1)]
    return Trend(
        dots=dots,
        line=" ".join(f"{dot.x},{dot.y}" for dot in dots),
        ticks=[(f"{y(tick):.1f}", round(tick, 2)) for tick in ticks],
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

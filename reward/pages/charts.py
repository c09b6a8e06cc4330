"""The geometry of charts, which templates draw as SVG.

Numbers are text, so that the locale does not change them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from formatting.numbers import percent, percent_range


@dataclass(frozen=True)
class IntervalRow:
    """A share with its interval, on an axis from 0 to 100%. Positions are percentages."""

    label: str
    value: str
    interval: str
    note: str
    at: str | None
    low: str | None
    high: str | None
    width: str | None
    main: bool


def interval_row(
    label: str, figure: Mapping[str, Any] | None, *, note: str = "", main: bool = False
) -> IntervalRow:
    """Return the row of a figure. If the figure has no value, the row shows the reason."""
    figure = figure or {}
    value, interval = figure.get("value"), figure.get("interval")
    if value is None:
        reason = figure.get("reason") or "Unknown."
        return IntervalRow(label, "–", reason, note, None, None, None, None, main)
    low, high = interval or (value, value)
    return IntervalRow(
        label=label,
        value=percent(value),
        interval=percent_range(interval) or figure.get("reason") or "",
        note=note,
        at=_position(value),
        low=_position(low),
        high=_position(high),
        width=_position(high - low),
        main=main,
    )


def _position(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


# --- reliability ---------------------------------------------------------------------------------

SIZE = 240
LEFT, TOP = 44, 10
FULL_WIDTH, FULL_HEIGHT = LEFT + SIZE + 20, TOP + SIZE + 44


@dataclass(frozen=True)
class Bin:
    x: str
    y: str
    radius: str
    predicted: str
    observed: str
    pairs: int
    span: str


@dataclass(frozen=True)
class Tick:
    x: str
    y: str
    label: str


@dataclass(frozen=True)
class Reliability:
    """A chart of observed against predicted shares of wins. Both axes are from `floor` to 100%."""

    bins: list[Bin]
    ticks: list[Tick]
    diagonal: tuple[str, ...]
    left: int = LEFT
    top: int = TOP
    right: int = LEFT + SIZE
    bottom: int = TOP + SIZE
    width: int = FULL_WIDTH
    height: int = FULL_HEIGHT


def reliability(bins: Iterable[Mapping[str, Any]]) -> Reliability | None:
    """Return the chart of the calibration bins of a report, or None if all bins are empty."""
    used = [row for row in bins if row["pairs"] and row["observed"] is not None]
    if not used:
        return None
    lowest = min(min(row["observed"] for row in used), 0.5)
    floor = 0.0 if lowest < 0.25 else 0.25 if lowest < 0.45 else 0.4
    most = max(row["pairs"] for row in used)
    step = (1 - floor) / 4

    def x(share: float) -> float:
        return LEFT + SIZE * (share - floor) / (1 - floor)

    def y(share: float) -> float:
        return TOP + SIZE * (1 - (share - floor) / (1 - floor))

    return Reliability(
        bins=[
            Bin(
                x=_number(x(row["predicted"])),
                y=_number(y(row["observed"])),
                radius=_number(4 + 9 * (row["pairs"] / most) ** 0.5),
                predicted=percent(row["predicted"], 0),
                observed=percent(row["observed"], 0),
                pairs=row["pairs"],
                span=f"{percent(row['low'], 0)} to {percent(row['high'], 0)}",
            )
            for row in used
        ],
        ticks=[
            Tick(_number(x(share)), _number(y(share)), percent(share, 0))
            for share in (floor + step * number for number in range(5))
        ],
        diagonal=tuple(_number(v) for v in (x(floor), y(floor), x(1.0), y(1.0))),
    )


def _number(value: float) -> str:
    return f"{value:.1f}"


# --- loss ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A line. `first` and `last` are means over a tenth of the points, because steps are noisy."""

    points: str
    first: str
    last: str
    steps: int


def curve(
    points: Iterable[Iterable[float]], *, width: int = 600, height: int = 120
) -> Curve | None:
    """Return a line through the (step, value) points, or None for fewer than two points."""
    rows = [tuple(point) for point in points]
    if len(rows) < 2:
        return None
    steps, values = [row[0] for row in rows], [row[1] for row in rows]
    low, high, tenth = min(values), max(values), max(1, len(values) // 10)
    span, length = (high - low) or 1.0, (steps[-1] - steps[0]) or 1
    positions = (
        (width * (s - steps[0]) / length, 4 + (height - 8) * (1 - (v - low) / span))
        for s, v in rows
    )
    return Curve(
        points=" ".join(f"{a:.1f},{b:.1f}" for a, b in positions),
        first=f"{fmean(values[:tenth]):.4g}",
        last=f"{fmean(values[-tenth:]):.4g}",
        steps=int(steps[-1]),
    )

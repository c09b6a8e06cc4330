"""How numbers are written on pages, in messages and in model cards, in English.

Needs neither Django nor torch, so that the web and the recipes write the same number the same way.
"""

from collections.abc import Iterable

UNKNOWN = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share between 0 and 1 as a percentage: 0.6825 is 68.3%."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f}%"


def percent_range(ends: Iterable[float] | None) -> str:
    """Return an interval of shares as percentages: 60.0% to 80.0%; empty without one."""
    return " to ".join(map(percent, ends or ()))


def number(value: float) -> str:
    """Return a number with four significant digits, and a whole or large one with separators."""
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"

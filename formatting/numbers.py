"""English formats of numbers on pages, in messages and in model cards.

The web and the recipes share these functions, so this module imports neither Django nor torch.
"""

from collections.abc import Iterable

UNKNOWN = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share between 0 and 1 as a percentage, such as "68.3%" for 0.6825."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f}%"


def percent_range(ends: Iterable[float] | None) -> str:
    """Return an interval of shares as percentages, such as "60.0% to 80.0%"; "" for None."""
    return " to ".join(map(percent, ends or ()))


def number(value: float) -> str:
    """Return an integer or large number with separators, and others with 4 significant digits."""
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"

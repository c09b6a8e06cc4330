from math import isfinite
from typing import Any

from django import template

from formatting.numbers import percent
from labeling.core import charts

register = template.Library()
MINUS = "\N{MINUS SIGN}"


register.filter("percent", percent)


@register.filter
def coefficient(value: float | None) -> str:
    """Format a number between −1 and 1."""
    return "–" if value is None else _signed(f"{value:.2f}")


@register.filter
def points(share: float | None) -> str:
    """Format a difference between two shares in percentage points, with its sign."""
    return "–" if share is None else _signed(f"{100 * share:+.1f}")


@register.filter
def times(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio:.2g}×" if isfinite(ratio) else "∞"


def _signed(text: str) -> str:
    sign, number = text[:1], text[1:]
    if sign in "+-" and not float(number):
        return number
    return MINUS + number if sign == "-" else text


@register.inclusion_tag("labeling/track.html")
def track(
    figure: Any, lowest: float, highest: float, mark: float = 0.0, label: str = ""
) -> dict[str, Any]:
    """Draw an interval on an axis from `lowest` to `highest`. `mark` is the expected value."""
    return {"track": charts.track(figure, lowest, highest, mark), "label": label}

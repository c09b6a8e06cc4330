from math import isfinite
from typing import Any

from django import template
from django.utils.formats import get_format
from django.utils.translation import gettext, gettext_noop

from formatting import numbers
from labeling.core import charts

register = template.Library()
MINUS = "\N{MINUS SIGN}"

REASONS = (
    gettext_noop("No two reviewers ranked the same responses."),
    gettext_noop("No two reviewers both ordered the same pair without a tie."),
)
"""Reasons from labeling.statistics.agreement, which cannot mark them for translation without Django."""


@register.filter
def percent(share: float | None, digits: int = 1) -> str:
    """Format a share as a percentage in the page's language, such as "82,3 %" in German."""
    if share is None:
        return numbers.UNKNOWN
    number = numbers.percent(share, digits).rstrip("%")
    return gettext("%(number)s%%") % {
        "number": number.replace(".", get_format("DECIMAL_SEPARATOR"))
    }


@register.filter
def reason(agreement: Any) -> str:
    """Return why there is no agreement to show, in the page's language."""
    return gettext(agreement.reason)


@register.filter
def coefficient(value: float | None) -> str:
    """Format a coefficient from −1 to 1 with two decimals, or a dash for None."""
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


@register.inclusion_tag("labeling/parts/track.html")
def track(
    figure: Any, lowest: float, highest: float, mark: float = 0.0, label: str = ""
) -> dict[str, Any]:
    """Draw a figure's interval on an axis from `lowest` to `highest`. `mark` is the expected value."""
    return {"track": charts.track(figure, lowest, highest, mark), "label": label}

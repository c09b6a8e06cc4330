"""Figures and conclusions taken from a report, for pages, commands and model cards.

This module needs neither torch nor Django, because recipes, models and views import it.
"""

from collections.abc import Mapping
from typing import Any

from reward.evaluation.schema import Figure, Quality

MAIN_FIGURES = {
    "accuracy": "accuracy",
    "pairwise_agreement": "reviewer_agreement",
    "longer_is_better": "longer_is_better",
}
"""The names of figures in the result of a run, and the keys of the report that contain them."""

SHARES = frozenset(
    {*MAIN_FIGURES, "reviewer_agreement"}
)  # older runs have reviewer_agreement in their results
"""The names of the main figures. All of them are shares."""

NO_LIMIT = 0.995
"""A limit of the accuracy is not shown if it is at least this high."""


def main_figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the main figures of a report, for the result of the run."""
    return {
        name: {
            "value": figure.get("value"),
            "interval": figure.get("interval"),
            "reason": figure.get("reason"),
        }
        for name, source in MAIN_FIGURES.items()
        if isinstance(figure := report.get(source), dict)
    }


def no_better_than_length(report: Quality) -> bool:
    """Return whether always preferring the longer response is as accurate as the model."""
    accuracy, longer = report.get("accuracy"), report.get("longer_is_better")
    own, rule = accuracy and accuracy["value"], longer and longer["value"]
    return own is not None and rule is not None and own <= rule


def limit_to_show(report: Quality) -> float | None:
    """Return the upper end of the interval of the accuracy limit, or None if it is not worth showing."""
    limit, accuracy = report.get("accuracy_limit"), report.get("accuracy")
    if not limit or not limit["interval"]:
        return None
    highest = limit["interval"][1]
    own = (accuracy and accuracy["value"]) or 0.0
    return highest if own < highest < NO_LIMIT else None

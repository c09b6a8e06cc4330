"""What a written report of a reward model says, for pages, commands and the model card.

Needs neither torch nor Django: recipes import it, and so do models and views.
"""

from typing import Any

HEADLINE = {
    "accuracy": "accuracy",
    "pairwise_agreement": "reviewer_agreement",
    "longer_is_better": "longer_is_better",
}
"""The names of figures in a run's result, and of the parts of the report they come from."""

NO_LIMIT = 0.995
"""From here on a limit of accuracy is not worth showing."""


def no_better_than_length(report: dict[str, Any]) -> bool:
    """Return whether always preferring the longer response would have been as accurate."""
    own, longer = ((report.get(n) or {}).get("value") for n in ("accuracy", "longer_is_better"))
    return own is not None and longer is not None and own <= longer


def limit_to_tell(report: dict[str, Any]) -> float | None:
    """Return the upper end of the limit's interval, if it limits anything."""
    limit, accuracy = report.get("accuracy_limit") or {}, report.get("accuracy") or {}
    if not limit.get("interval"):
        return None
    most = limit["interval"][1]
    return most if (accuracy.get("value") or 0.0) < most < NO_LIMIT else None

"""The content of a ranking, and its validation.

Error messages are written for reviewers: they say what is wrong and what to do.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from labeling.core.text import storable
from labeling.models import MAX_RATIONALE_LENGTH, Project

FLAGS = {
    "unsafe": gettext_lazy("Unsafe"),
    "off-task": gettext_lazy("Off-topic"),
    "identity": gettext_lazy("Reveals its model"),
    "broken": gettext_lazy("Broken output"),
}
MAX_ACTIVE_SECONDS = 24 * 3600.0
STRONGEST = 3

Errors = dict[str, str]


@dataclass(frozen=True)
class Content:
    """The content of a ranking, from the form to the row. See labeling.models.Ranking for the fields."""

    tiers: Sequence[Sequence[int]]
    cut: int | None = None
    strength: float | None = None
    ratings: Mapping[Any, Mapping[str, int]] = field(default_factory=dict)
    flags: Mapping[Any, Sequence[str]] = field(default_factory=dict)
    rationale: str = ""
    active_seconds: float = 0.0

    def columns(self) -> dict[str, Any]:
        """Return the column values, with string keys and without characters that cannot be stored."""
        return {
            "tiers": [list(tier) for tier in self.tiers],
            "cut": self.cut,
            "strength": self.strength,
            "ratings": {str(key): dict(rated) for key, rated in self.ratings.items() if rated},
            "flags": {str(key): sorted(set(named)) for key, named in self.flags.items() if named},
            "rationale": storable(self.rationale),
            "active_seconds": _sane_seconds(self.active_seconds),
        }


def _sane_seconds(seconds: float) -> float:
    """Return the seconds, clipped to the valid range, so that a wrong clock cannot lose a ranking."""
    return min(max(seconds, 0.0), MAX_ACTIVE_SECONDS) if math.isfinite(seconds) else 0.0


@dataclass(frozen=True)
class Policy:
    """A project's requirements for a ranking. By default, every consistent ranking is accepted."""

    ties: bool = True
    partial: bool = False
    min_rationale: int = 0

    @classmethod
    def of(cls, project: Project) -> "Policy":
        return cls(project.allow_ties, project.allow_partial, project.min_rationale)


ANYTHING = Policy()


# --- validation -----------------------------------------------------------------------------------


def problems(
    content: Content,
    response_ids: Collection[int],
    scales: Mapping[str, int],
    *,
    partial: bool = False,
    policy: Policy = ANYTHING,
) -> Errors:
    """Return a message for each invalid field, keyed by field.

    `scales` maps the name of each criterion to its highest rating.
    """
    partial = partial or policy.partial
    errors = {
        "tiers": _tiers_problem(content.tiers, set(response_ids), partial)
        or (None if policy.ties else _ties_problem(content.tiers)),
        "cut": _cut_problem(content),
        "strength": _strength_problem(content, len(response_ids)),
        "ratings": _ratings_problem(content.ratings, {str(i) for i in response_ids}, scales),
        "flags": _flags_problem(content.flags, {str(i) for i in response_ids}),
        "rationale": _rationale_problem(content.rationale, policy.min_rationale),
    }
    return {name: problem for name, problem in errors.items() if problem}


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tiers_problem(tiers: Any, responses: set[int], partial: bool) -> str | None:
    if not isinstance(tiers, Sequence) or not all(isinstance(t, list | tuple) for t in tiers):
        return "Tiers must be a list of lists of response ids, best first."
    placed = [response for tier in tiers for response in tier]
    if not all(map(_whole, placed)):
        return "Response ids in tiers must be whole numbers."
    if any(not tier for tier in tiers):
        return "A tier needs at least one response. Leave out empty tiers."
    if unknown := sorted(set(placed) - responses):
        return f"These responses do not belong to this task: {', '.join(map(str, unknown))}."
    if len(placed) != len(set(placed)):
        return "A response is ranked twice. Rank each response once."
    if missing := len(responses) - len(placed):
        if not partial:
            return _("Rank every response: %(missing)d of %(all)d are not ranked yet.") % {
                "missing": missing,
                "all": len(responses),
            }
        if len(placed) < 2:
            return _("A ranking compares at least two responses.")
    return None


def _ties_problem(tiers: Sequence[Sequence[int]]) -> str | None:
    if all(len(tier) == 1 for tier in tiers):
        return None
    return _("This project does not allow ties. Give every response its own rank.")


def _cut_problem(content: Content) -> str | None:
    if content.cut is None or (_whole(content.cut) and 0 <= content.cut <= len(content.tiers)):
        return None
    return f"The cut is the number of tiers above the line, 0 to {len(content.tiers)}; got {content.cut}."


def _strength_problem(content: Content, responses: int) -> str | None:
    strength = content.strength
    if strength is None:
        return None
    if responses != 2 or len(content.tiers) != 2:
        return "Only a ranking of two responses without a tie has a strength."
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        return "The strength must be a number."
    return None if 1 <= strength <= STRONGEST else f"The strength must be from 1 to {STRONGEST}."


def _ratings_problem(ratings: Any, responses: set[str], scales: Mapping[str, int]) -> str | None:
    if not isinstance(ratings, Mapping):
        return "Ratings must be an object with a response id for each key."
    for response, rated in ratings.items():
        if str(response) not in responses or not isinstance(rated, Mapping):
            return f"This task has no response {response} to rate."
        for name, rating in rated.items():
            if name not in scales:
                return f"The guideline has no criterion {name!r} to rate."
            if not _whole(rating) or not 1 <= rating <= scales[name]:
                return f"The rating of {name} must be from 1 to {scales[name]}; got {rating!r}."
    return None


def _flags_problem(flags: Any, responses: set[str]) -> str | None:
    if not isinstance(flags, Mapping):
        return "Flags must be an object with a response id for each key."
    for response, named in flags.items():
        if str(response) not in responses or not isinstance(named, list | tuple | set):
            return f"This task has no response {response} to flag."
        if unknown := [name for name in named if not isinstance(name, str) or name not in FLAGS]:
            return f"{unknown[0]!r} is not a flag. Use one of {', '.join(FLAGS)}."
    return None


def _rationale_problem(rationale: object, shortest: int) -> str | None:
    if not isinstance(rationale, str):
        return "The rationale must be text."
    if (written := len(rationale)) > MAX_RATIONALE_LENGTH:
        return _(
            "A rationale has at most %(longest)d characters; this one has %(written)d. Shorten it."
        ) % {"longest": MAX_RATIONALE_LENGTH, "written": written}
    written = len(rationale.strip())
    if written < shortest:
        return _("The rationale needs at least %(shortest)d characters; it has %(written)d.") % {
            "shortest": shortest,
            "written": written,
        }
    return None

"""The filter of a snapshot's rankings, and the split of its prompts."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime
from math import isfinite
from typing import Any

from django.utils import timezone

from labeling.models import Ranking, Task

REASONS = {
    "removed": "Its reviewer's data was withdrawn, so it is empty.",
    "superseded": "Replaced by its reviewer's own revision.",
    "withdrawn": "Its task, its prompt or too many of its responses are withdrawn.",
    "comparison": "From a blind comparison of two models, which is for evaluation only.",
    "gold": "From a gold task, which has a known answer and only measures reviewers.",
    "source": "Its source (reviewers, import, simulation or chat) is not in the filter.",
    "guideline_version": "Made under a guideline version that is not in the filter.",
    "reviewer": "By a reviewer who is not in the filter.",
    "date": "Made outside the dates of the filter.",
    "relabelled": "From a task ranked again to measure a change of the guideline.",
    "too_fast": "Made in less active time than the filter requires.",
    "nothing_compared": "Has fewer than two responses, so it compares nothing.",
    "ranked_anew": "Replaced by later rankings of its task under a new guideline.",
    "adjudicated": "Replaced by a lead's decision of a dispute.",
    "chat_held_out": "From a chat about a held-out prompt; votes in chats are for training only.",
}
"""The reasons to leave out a ranking. Only the first one that applies is counted.

The last three depend on other rankings of the prompt.
"""

SOURCES = tuple(Ranking.Source.values)


class FilterError(ValueError):
    """An invalid filter. `errors` has a sentence for each invalid field."""

    def __init__(self, errors: dict[str, str]):
        super().__init__(" ".join(f"{name}: {text}" for name, text in errors.items()))
        self.errors = errors


@dataclass(frozen=True, kw_only=True)
class SnapshotFilter:
    """The choice of the rankings to freeze, and the split of the prompts.

    In a field for a choice, None means all. Dates are local days and are included.

    min_active_seconds  applies only to rankings from the review page, because others are not timed
    adjudicated         a lead's decision replaces the rankings of a disputed task
    relabelled          rankings under a later guideline replace the first ones; by default, the later
                        rankings are left out, so that no task counts twice
    weigh_reviewers     the weight of a ranking depends on its reviewer's agreement with others
    chats               imported prompts with one response and no task are frozen too, as examples
    """

    guideline_versions: tuple[int, ...] | None = None
    reviewers: tuple[int, ...] | None = None
    sources: tuple[str, ...] = SOURCES
    since: date | None = None
    until: date | None = None
    min_active_seconds: float = 0.0
    include_comparisons: bool = False
    adjudicated: bool = False
    relabelled: bool = False
    weigh_reviewers: bool = False
    chats: bool = False
    test_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("guideline_versions", "reviewers", "sources"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, tuple(sorted(set(values))))
        if errors := self._errors():
            raise FilterError(errors)

    def _errors(self) -> dict[str, str]:
        errors = {}
        if unknown := set(self.sources) - set(SOURCES):
            errors["sources"] = f"{sorted(unknown)[0]!r} is not one of {', '.join(SOURCES)}."
        elif not self.sources:
            errors["sources"] = "Choose at least one source of rankings."
        if self.guideline_versions == ():
            errors["guideline_versions"] = "Choose at least one version, or leave it out for all."
        if self.reviewers == ():
            errors["reviewers"] = "Choose at least one reviewer, or leave it out for all."
        if self.since and self.until and self.until < self.since:
            errors["until"] = "The last day is before the first."
        if not (isfinite(self.min_active_seconds) and self.min_active_seconds >= 0):
            errors["min_active_seconds"] = "Must be zero or more."
        if not 0 <= self.test_fraction <= 0.9:
            errors["test_fraction"] = "Must be between 0 and 0.9; the rest is for training."
        if not 0 <= self.seed < 2**31:
            errors["seed"] = "Must be a whole number from 0 to 2147483647."
        return errors

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SnapshotFilter":
        """Return the filter that `to_dict` wrote.

        Raises FilterError for unknown fields and invalid values.
        """
        names = {field.name for field in fields(cls)}
        if unknown := set(values) - names:
            raise FilterError(dict.fromkeys(sorted(unknown), "Unknown filter."))
        arguments = dict(values)
        for name in ("since", "until"):
            if isinstance(arguments.get(name), str):
                arguments[name] = _day(name, arguments[name])
        return cls(**arguments)

    def to_dict(self) -> dict[str, Any]:
        """Return the filter as plain JSON, which identifies snapshots, so it must never change."""
        values = asdict(self)
        for name in ("adjudicated", "relabelled", "weigh_reviewers", "chats"):
            if not values[name]:
                del values[name]
        for name in ("since", "until"):
            values[name] = values[name] and values[name].isoformat()
        for name in ("guideline_versions", "reviewers", "sources"):
            values[name] = None if values[name] is None else list(values[name])
        return {**values, "min_active_seconds": float(self.min_active_seconds)}

    def objection_to(self, ranking: Mapping[str, Any]) -> str | None:
        """Return the first of REASONS that applies to a ranking, or None if it is used."""
        checks = (
            ("removed", ranking.get("removed_at") is not None),
            ("superseded", ranking["superseded_at"] is not None),
            ("withdrawn", ranking["task__inactive"]),
            (
                "comparison",
                ranking["task__kind"] == Task.Kind.COMPARISON and not self.include_comparisons,
            ),
            ("gold", ranking["task__kind"] == Task.Kind.GOLD),
            ("source", ranking["source"] not in self.sources),
            (
                "guideline_version",
                _outside(ranking["guideline_version_id"], self.guideline_versions),
            ),
            ("reviewer", _outside(ranking["reviewer_id"], self.reviewers)),
            ("date", not self._covers(ranking["created_at"])),
            ("relabelled", ranking["task__kind"] == Task.Kind.RELABEL and not self.relabelled),
            (
                "too_fast",
                ranking["source"] == Ranking.Source.REVIEW
                and ranking["active_seconds"] < self.min_active_seconds,
            ),
            ("nothing_compared", sum(map(len, ranking["tiers"])) < 2),
        )
        return next((reason for reason, applies in checks if applies), None)

    def covers(self, moment: datetime, guideline_version: int | None) -> bool:
        """Return whether the filter accepts a decision at this time, under this guideline version."""
        return self._covers(moment) and not _outside(guideline_version, self.guideline_versions)

    def _covers(self, moment: datetime) -> bool:
        if not (self.since or self.until):
            return True
        day = timezone.localdate(moment, timezone.get_default_timezone())
        return (self.since or day) <= day <= (self.until or day)

    def split_of(self, prompt_hash: str) -> str:
        """Return "train" or "test". It depends only on the text of the prompt and the seed."""
        return "test" if share_of(self.seed, prompt_hash) < self.test_fraction else "train"


def share_of(seed: int, prompt_hash: str) -> float:
    """Return a number from 0 to 1 that depends only on the text of the prompt and the seed."""
    digest = hashlib.sha256(f"{seed}:{prompt_hash}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _outside(value: int | None, allowed: tuple[int, ...] | None) -> bool:
    return allowed is not None and value not in allowed


def _day(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise FilterError({name: f"{text!r} is not a date; use YYYY-MM-DD."}) from None

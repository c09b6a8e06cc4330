"""Which rankings a snapshot is made of, and how its prompts are split."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime
from math import isfinite
from typing import Any

from django.utils import timezone

from labeling.models import Ranking, Task

REASONS = {
    "superseded": "Replaced by its reviewer's own revision.",
    "withdrawn": "Its task, its prompt or too many of its responses are withdrawn.",
    "comparison": "From a blind comparison of two models, which evaluates and does not train.",
    "gold": "Of a gold task, whose answer was known: it measures reviewers and does not train.",
    "source": "Its source (reviewers, import or simulation) was not asked for.",
    "guideline_version": "Made under a guideline version that was not asked for.",
    "reviewer": "By a reviewer who was not asked for.",
    "date": "Made outside the dates asked for.",
    "relabelled": "From a task given out again to see what a change of the guideline did.",
    "too_fast": "Made in less active time than asked for.",
    "nothing_compared": "Places fewer than two responses, so it compares nothing.",
    "ranked_anew": "Its task was ranked again, and those rankings replace it.",
    "adjudicated": "A lead decided its task, and the outcome stands in its place.",
}
"""Why a ranking is left out, in the order in which the reasons are tried: each counts once.

The last two depend on the prompt's other rankings; see reward.preferences.substitutes."""

SOURCES = tuple(Ranking.Source.values)


class FilterError(ValueError):
    """A filter that cannot be used. `errors` maps each field to one sentence."""

    def __init__(self, errors: dict[str, str]):
        super().__init__(" ".join(f"{name}: {text}" for name, text in errors.items()))
        self.errors = errors


@dataclass(frozen=True, kw_only=True)
class SnapshotFilter:
    """None means all. Dates are days of the product's time zone, both included.

    `min_active_seconds` concerns rankings made on the review page alone: imports and simulations
    were not timed. `adjudicated`: a decided task's outcome stands in for its rankings.
    `relabelled`: so do the rankings that a task got under a later guideline; they are left out
    otherwise, so that no task counts twice. `weigh_reviewers` leaves none out: each ranking weighs
    what its reviewer's agreement with others says.
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
    test_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("guideline_versions", "reviewers", "sources"):
            chosen = getattr(self, name)
            if chosen is not None:
                object.__setattr__(self, name, tuple(sorted(set(chosen))))
        if errors := self._errors():
            raise FilterError(errors)

    def _errors(self) -> dict[str, str]:
        errors = {}
        if unknown := set(self.sources) - set(SOURCES):
            errors["sources"] = f"{sorted(unknown)[0]!r} is none of {', '.join(SOURCES)}."
        elif not self.sources:
            errors["sources"] = "Choose at least one source of rankings."
        if self.guideline_versions == ():
            errors["guideline_versions"] = "Choose at least one version, or leave it out for all."
        if self.reviewers == ():
            errors["reviewers"] = "Choose at least one reviewer, or leave it out for all."
        if self.since and self.until and self.until < self.since:
            errors["until"] = "The last day lies before the first."
        if not (isfinite(self.min_active_seconds) and self.min_active_seconds >= 0):
            errors["min_active_seconds"] = "Must be zero or more."
        if not 0 <= self.test_fraction <= 0.9:
            errors["test_fraction"] = "Must lie between 0 and 0.9: the rest is for training."
        if not 0 <= self.seed < 2**31:
            errors["seed"] = "Must be a whole number from 0 to 2147483647."
        return errors

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SnapshotFilter":
        """Reads what `to_dict` wrote. Raises FilterError for unknown fields and illegal values."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise FilterError(dict.fromkeys(sorted(unknown), "A snapshot has no such filter."))
        read = dict(values)
        for name in ("since", "until"):
            if isinstance(read.get(name), str):
                read[name] = _day(name, read[name])
        return cls(**read)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; the same filter always gives the same JSON, in whichever version made it."""
        values = asdict(self)
        for name in ("adjudicated", "relabelled", "weigh_reviewers"):
            if not values[name]:
                del values[name]
        for name in ("since", "until"):
            values[name] = values[name] and values[name].isoformat()
        for name in ("guideline_versions", "reviewers", "sources"):
            values[name] = None if values[name] is None else list(values[name])
        return {**values, "min_active_seconds": float(self.min_active_seconds)}

    def objection_to(self, ranking: Mapping[str, Any]) -> str | None:
        """The first of REASONS that keeps a ranking out, None when it is used."""
        checks = (
            ("superseded", ranking["superseded_at"] is not None),
            ("withdrawn", ranking["task__out_of_use"]),
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
        """Whether a decision of then, under that version, is among what was asked for."""
        return self._covers(moment) and not _outside(guideline_version, self.guideline_versions)

    def _covers(self, moment: datetime) -> bool:
        if not (self.since or self.until):
            return True
        day = timezone.localdate(moment, timezone.get_default_timezone())
        return (self.since or day) <= day <= (self.until or day)

    def split_of(self, prompt_hash: str) -> str:
        """train or test, from the prompt's text and the seed alone: the same in every snapshot."""
        return "test" if share_of(self.seed, prompt_hash) < self.test_fraction else "train"


def share_of(seed: int, prompt_hash: str) -> float:
    """Where a prompt stands between 0 and 1, from its text and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{prompt_hash}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _outside(value: int | None, allowed: tuple[int, ...] | None) -> bool:
    return allowed is not None and value not in allowed


def _day(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise FilterError({name: f"{text!r} is not a date; use YYYY-MM-DD."}) from None

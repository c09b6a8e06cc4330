"""Reads the ranking form, which says the same with and without the script."""

import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

from django import forms
from django.http import QueryDict

from labeling.models import Criterion, Skip
from labeling.rankings import FLAGS, Errors
from labeling.text import storable

LONGEST_DRAFT_BYTES = 200_000

Fields = dict[str, list[str]]


@dataclass
class Answer:
    """What the form said, in the words of labeling.rankings.submit."""

    tiers: list[list[int]]
    cut: int | None
    ratings: dict[str, dict[str, int]]
    flags: dict[str, list[str]]
    rationale: str
    active_seconds: float
    idempotency_key: uuid.UUID
    errors: Errors = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "errors"}


def fields_of(data: QueryDict) -> Fields:
    return {name: data.getlist(name) for name in data}


def read_draft(body: bytes) -> dict[str, Any] | None:
    """What a browser sent to be kept; it may hold anything, so only what a form can say is taken.

    None when it is too long or no draft at all.
    """
    try:
        sent = json.loads(body) if len(body) <= LONGEST_DRAFT_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(sent, dict) or not isinstance(sent.get("fields"), dict):
        return None
    fields = {
        storable(name): [storable(value) for value in values if isinstance(value, str)]
        for name, values in sent["fields"].items()
        if isinstance(values, list)
    }
    seconds = str(_seconds(str(sent.get("active_seconds", ""))))
    at = sent.get("at")
    return {
        "fields": {**fields, "active_seconds": [seconds]},
        "at": at if isinstance(at, int) and 0 < at < 2**53 else 0,
    }


def fields_of_draft(draft: Any) -> Fields:
    return draft["fields"] if isinstance(draft, dict) and "fields" in draft else {}


def fields_of_ranking(
    tiers: Sequence[Sequence[int]],
    cut: int | None,
    ratings: Mapping[str, Mapping[str, int]],
    flags: Mapping[str, Sequence[str]],
    rationale: str,
) -> Fields:
    fields = {f"rank-{i}": [str(rank)] for rank, tier in enumerate(tiers, 1) for i in tier}
    fields["cut"] = ["" if cut is None else str(cut)]
    fields["rationale"] = [rationale]
    for response, rated in ratings.items():
        for criterion, rating in rated.items():
            fields[f"rating-{response}-{criterion}"] = [str(rating)]
    for response, flagged in flags.items():
        fields[f"flag-{response}"] = list(flagged)
    return fields


def first(fields: Fields, name: str) -> str:
    return (fields.get(name) or [""])[0].strip()


def read_answer(
    fields: Fields, *, shown_order: Sequence[int], criteria: Iterable[Criterion]
) -> Answer:
    """Never raises: what is missing or makes no sense is in `errors`, by the name of the field."""
    errors: Errors = {}
    ranks = {response: _whole(first(fields, f"rank-{response}")) for response in shown_order}
    unplaced = [
        ascii_uppercase[place] for place, i in enumerate(shown_order) if not _is_rank(ranks[i])
    ]
    if unplaced:
        errors["tiers"] = (
            f"{_listed(unplaced)} {'has' if len(unplaced) == 1 else 'have'} no place yet. "
            "Give every response a rank; equal ranks are a tie."
        )
    used = sorted({rank for rank in ranks.values() if rank is not None and _is_rank(rank)})
    return Answer(
        tiers=[[i for i in shown_order if ranks[i] == rank] for rank in used],
        cut=_cut(first(fields, "cut"), used, errors),
        ratings=_ratings(fields, shown_order, criteria, errors),
        flags={
            str(i): flags
            for i in shown_order
            if (flags := [flag for flag in fields.get(f"flag-{i}", []) if flag in FLAGS])
        },
        rationale=storable(first(fields, "rationale").replace("\r\n", "\n")),
        active_seconds=_seconds(first(fields, "active_seconds")),
        idempotency_key=_key(first(fields, "idempotency_key"), errors),
        errors=errors,
    )


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else None


def _is_rank(rank: int | None) -> bool:
    return rank is not None and 1 <= rank <= 9


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _cut(text: str, used: Sequence[int], errors: Errors) -> int | None:
    """The line runs below a rank; as tiers are counted, it lies under those up to that rank."""
    if not text:
        return None
    rank = _whole(text)
    if rank is None:
        errors["cut"] = "The line lies below a rank: choose one, or no line."
        return None
    return sum(1 for other in used if other <= rank)


def _ratings(
    fields: Fields, shown_order: Sequence[int], criteria: Iterable[Criterion], errors: Errors
) -> dict[str, dict[str, int]]:
    ratings: dict[str, dict[str, int]] = {}
    scales = [(criterion.name, criterion.scale) for criterion in criteria]
    for response in shown_order:
        for name, scale in scales:
            if not (text := first(fields, f"rating-{response}-{name}")):
                continue
            rating = _whole(text)
            if rating is None or not 1 <= rating <= scale:
                errors[f"rating-{response}-{name}"] = f"A rating of {name} goes from 1 to {scale}."
            else:
                ratings.setdefault(str(response), {})[name] = rating
    return ratings


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _key(text: str, errors: Errors) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        errors["idempotency_key"] = "The form was incomplete. Check it, and send it again."
        return uuid.uuid4()


class SkipForm(forms.Form):
    reason = forms.ChoiceField(
        label="Why?",
        choices=Skip.Reason.choices,
        widget=forms.RadioSelect,
        error_messages={"required": "Choose a reason; it tells the lead what to mend."},
    )
    note = forms.CharField(
        label="Note", max_length=500, required=False, widget=forms.Textarea(attrs={"rows": 2})
    )

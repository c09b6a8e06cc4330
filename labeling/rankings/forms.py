"""Read the ranking form, which has the same fields with and without JavaScript."""

import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

from django import forms
from django.core.validators import MaxLengthValidator
from django.http import QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.parameters import number
from labeling.core.text import storable
from labeling.models import Criterion, Skip
from labeling.rankings.content import ANYTHING, FLAGS, STRONGEST, Content, Errors, Policy

MAX_DRAFT_BYTES = 200_000

Fields = dict[str, list[str]]


@dataclass
class Answer:
    """The content of a submitted ranking form. `errors` maps the name of a field to a message."""

    content: Content
    idempotency_key: uuid.UUID
    guideline_version: int | None = None
    errors: Errors = field(default_factory=dict)


def fields_of(data: QueryDict) -> Fields:
    return {name: data.getlist(name) for name in data}


def read_draft(body: bytes) -> dict[str, Any] | None:
    """Return the valid parts of a draft that a browser sent.

    Return None if the body is not a draft or is too long.
    """
    try:
        sent = json.loads(body) if len(body) <= MAX_DRAFT_BYTES else None
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
    *,
    strength: float | None = None,
    shown_order: Sequence[int] = (),
) -> Fields:
    fields = {f"rank-{i}": [str(rank)] for rank, tier in enumerate(tiers, 1) for i in tier}
    if len(shown_order) == 2:
        fields["strength"] = [_grade(tiers, strength, shown_order)]
    fields["cut"] = ["" if cut is None else str(cut)]
    fields["rationale"] = [rationale]
    for response, rated in ratings.items():
        for criterion, rating in rated.items():
            fields[f"rating-{response}-{criterion}"] = [str(rating)]
    for response, flagged in flags.items():
        fields[f"flag-{response}"] = list(flagged)
    return fields


def _grade(
    tiers: Sequence[Sequence[int]], strength: float | None, shown_order: Sequence[int]
) -> str:
    """Return the form's grade, from -3 (the first is much better) to 3 (the second is much better).

    A preference without a strength has the grade -1 or 1, and a tie has 0.
    """
    if not tiers or len(tiers[0]) == 2:
        return "0" if tiers else ""
    grade = round(strength or 1)
    return str(-grade if tiers[0][0] == shown_order[0] else grade)


def first(fields: Fields, name: str) -> str:
    return (fields.get(name) or [""])[0].strip()


def read_answer(
    fields: Fields,
    *,
    shown_order: Sequence[int],
    criteria: Iterable[Criterion],
    policy: Policy = ANYTHING,
) -> Answer:
    """Return the answer in these fields. Missing or invalid fields are reported in `errors`."""
    errors: Errors = {}
    ranked = any(first(fields, f"rank-{response}") for response in shown_order)
    if len(shown_order) == 2 and (first(fields, "strength") or not ranked):
        tiers, used, strength = _graded(first(fields, "strength"), shown_order, errors)
    else:
        tiers, used = _ranked(fields, shown_order, policy, errors)
        strength = None
    content = Content(
        tiers=tiers,
        cut=_cut(first(fields, "cut"), used, errors),
        strength=strength,
        ratings=_ratings(fields, shown_order, criteria, errors),
        flags={
            str(i): flags
            for i in shown_order
            if (flags := [flag for flag in fields.get(f"flag-{i}", []) if flag in FLAGS])
        },
        rationale=storable(first(fields, "rationale").replace("\r\n", "\n")),
        active_seconds=_seconds(first(fields, "active_seconds")),
    )
    return Answer(
        content,
        idempotency_key=_key(first(fields, "idempotency_key"), errors),
        guideline_version=number(first(fields, "guideline_version")),
        errors=errors,
    )


def _ranked(
    fields: Fields, shown_order: Sequence[int], policy: Policy, errors: Errors
) -> tuple[list[list[int]], list[int]]:
    """Return the tiers, and for each tier the rank that was entered in the form."""
    ranks = {response: _whole(first(fields, f"rank-{response}")) for response in shown_order}
    unranked = [
        ascii_uppercase[index] for index, i in enumerate(shown_order) if not _is_rank(ranks[i])
    ]
    if unranked and not policy.partial:
        sentence = (
            _("Not ranked yet: %(letters)s. Give every response a rank; equal ranks are a tie.")
            if policy.ties
            else _("Not ranked yet: %(letters)s. Give every response its own rank.")
        )
        errors["tiers"] = sentence % {"letters": ", ".join(unranked)}
    used = sorted({rank for rank in ranks.values() if rank is not None and _is_rank(rank)})
    return [[i for i in shown_order if ranks[i] == rank] for rank in used], used


def _graded(
    text: str, shown_order: Sequence[int], errors: Errors
) -> tuple[list[list[int]], list[int], float | None]:
    """Return the tiers, their ranks and the strength for a grade from -3 (first better) to 3."""
    grade = int(text) if text.lstrip("+-").isdigit() and len(text) < 3 and text.isascii() else None
    if grade is None or abs(grade) > STRONGEST:
        errors["tiers"] = _("Say which response is better, and by how much.")
        return [], [1, 2], None
    if grade == 0:
        return [list(shown_order)], [1], None
    first_id, second_id = shown_order
    order = [[first_id], [second_id]] if grade < 0 else [[second_id], [first_id]]
    return order, [1, 2], float(abs(grade))


def _whole(text: str) -> int | None:
    return number(text, digits=3)


def _is_rank(rank: int | None) -> bool:
    return rank is not None and 1 <= rank <= 9


def _cut(text: str, used: Sequence[int], errors: Errors) -> int | None:
    """Return the number of tiers above the line, or None without a line.

    The form contains the rank of the tier directly above the line.
    """
    if not text:
        return None
    rank = _whole(text)
    if rank is None:
        errors["cut"] = _("Choose the rank above the line, or no line.")
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
                errors[f"rating-{response}-{name}"] = _(
                    "A rating of %(name)s goes from 1 to %(scale)d."
                ) % {"name": name, "scale": scale}
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
        errors["idempotency_key"] = _("The form was incomplete. Check it, and send it again.")
        return uuid.uuid4()


class SkipForm(forms.Form):
    reason = forms.ChoiceField(
        label=gettext_lazy("Why?"),
        choices=Skip.Reason.choices,
        widget=forms.RadioSelect,
        error_messages={
            "required": gettext_lazy("Choose a reason, so that the lead knows what to fix.")
        },
    )
    note = forms.CharField(
        label=gettext_lazy("Note"),
        validators=[MaxLengthValidator(500)],  # with max_length, browsers would cut the text
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
    )

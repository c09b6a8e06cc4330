"""Guideline versions. A version starts as a draft; once published, it cannot be changed."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, Literal

from django.db import transaction
from django.utils import timezone

from accounts.models import User, audit
from labeling.models import Criterion, Guideline, GuidelineVersion, Project
from labeling.models.projects import digest

DRAFT, PUBLISHED = GuidelineVersion.State.DRAFT, GuidelineVersion.State.PUBLISHED
CONTEXT_LINES = 3
WORDS_COMPARED = 2000


def draft_exists(number: int) -> str:
    return f"Version {number} is already a draft. Edit or publish it."


class GuidelineError(ValueError):
    """Raised if a change to a guideline is refused, before anything is written.

    The message is for the lead.
    """


def criteria_of(version: GuidelineVersion) -> Sequence[Criterion]:
    """Return the criteria of a version in their order.

    Those of published versions are cached in this process. Otherwise this costs one query.
    """
    return _published_criteria(version.pk) if version.state == PUBLISHED else _criteria(version.pk)


def _criteria(version_id: int) -> tuple[Criterion, ...]:
    return tuple(Criterion.objects.filter(version=version_id))


_published_criteria = lru_cache(maxsize=500)(_criteria)


def draft_of(project: Project) -> GuidelineVersion | None:
    """Return the draft of the project's next guideline version, or None."""
    drafts = GuidelineVersion.objects.filter(guideline__project=project, state=DRAFT)
    return drafts.select_related("guideline").first()


@transaction.atomic
def create_draft(
    *,
    project: Project,
    by: User | None,
    text: str,
    criteria: Iterable[Mapping[str, Any]],
    change_note: str = "",
    requalify: bool = False,
) -> GuidelineVersion:
    """Create a draft of the project's next version. `criteria` are dicts of name, meaning and scale.

    Raises GuidelineError if there already is a draft.
    """
    Guideline.objects.get_or_create(project=project, defaults={"title": project.name})
    guideline = Guideline.objects.select_for_update().get(project=project)
    numbers = list(guideline.versions.values_list("number", "state"))
    if draft := next((number for number, state in numbers if state == DRAFT), None):
        raise GuidelineError(draft_exists(draft))
    version = GuidelineVersion.objects.create(
        guideline=guideline,
        number=max((number for number, _ in numbers), default=0) + 1,
        text=text,
        change_note=change_note,
        requalify=requalify,
        created_by=by,
    )
    _write_criteria(version, criteria)
    return version


def draft_from(*, version: GuidelineVersion, by: User | None) -> GuidelineVersion:
    """Create a draft with the text and criteria of this version.

    Raises GuidelineError if there already is a draft.
    """
    return create_draft(
        project=version.guideline.project,
        by=by,
        text=version.text,
        criteria=version.criteria.order_by("position", "id").values("name", "meaning", "scale"),
    )


@transaction.atomic
def save_draft(
    *,
    version: GuidelineVersion,
    seen_fingerprint: str,
    text: str,
    criteria: Iterable[Mapping[str, Any]],
    change_note: str = "",
    requalify: bool = False,
) -> None:
    """Replace the content of a draft.

    `seen_fingerprint` is the fingerprint of the draft that the author opened. Raises GuidelineError if
    someone else has saved, published or deleted the draft since then.
    """
    draft = GuidelineVersion.objects.select_for_update().filter(pk=version.pk, state=DRAFT).first()
    if draft is None:
        raise GuidelineError(f"{version} was published or deleted in the meantime.")
    if fingerprint(draft) != seen_fingerprint:
        raise GuidelineError(
            "Someone else saved this draft after you opened it. Their text is in the list of "
            "versions. Save again to replace it with yours."
        )
    GuidelineVersion.objects.filter(pk=draft.pk).update(
        text=text, change_note=change_note, requalify=requalify
    )
    draft.criteria.all().delete()
    _write_criteria(draft, criteria)


@transaction.atomic
def delete_draft(*, version: GuidelineVersion, by: User | None) -> None:
    """Delete a draft. Raises GuidelineError if it was published or deleted in the meantime."""
    draft = GuidelineVersion.objects.select_for_update().filter(pk=version.pk, state=DRAFT).first()
    if draft is None:
        raise GuidelineError(f"{version} was published or deleted in the meantime.")
    audit(by, "guideline draft deleted", draft, number=draft.number)
    draft.delete()


def fingerprint(version: GuidelineVersion | None) -> str:
    """Return a digest of the version's content, to detect concurrent changes."""
    if version is None:
        return ""
    criteria = [[c.name, c.meaning, c.scale] for c in _criteria(version.pk)]
    return digest([version.pk, version.text, version.change_note, version.requalify, criteria])


@transaction.atomic
def number_criteria(*, version: GuidelineVersion) -> None:
    """Number a draft's criteria 1, 2, 3, … in their order. Criteria without a number come last."""
    criteria = sorted(
        Criterion.objects.filter(version=version, version__state=DRAFT),
        key=lambda criterion: (criterion.position or sys.maxsize, criterion.pk),
    )
    for position, criterion in enumerate(criteria, start=1):
        criterion.position = position
    Criterion.objects.bulk_update(criteria, ["position"])


def _write_criteria(version: GuidelineVersion, criteria: Iterable[Mapping[str, Any]]) -> None:
    Criterion.objects.bulk_create(
        Criterion(version=version, position=position, **criterion)
        for position, criterion in enumerate(criteria, start=1)
    )


@transaction.atomic
def publish(
    *, version: GuidelineVersion, by: User | None, seen_fingerprint: str | None = None
) -> GuidelineVersion:
    """Publish the draft. It can then not be changed, and new rankings are made under it.

    `seen_fingerprint` is the fingerprint of the draft on the confirmation page, if there was one. Raises
    GuidelineError, for example if the draft has changed since then.
    """
    guideline = Guideline.objects.select_for_update().get(pk=version.guideline_id)
    draft = GuidelineVersion.objects.select_for_update().get(pk=version.pk)
    if not draft.text.strip():
        raise GuidelineError("This guideline is empty. Write it first.")
    if (
        seen_fingerprint is not None
        and draft.state == DRAFT
        and seen_fingerprint != fingerprint(draft)
    ):
        raise GuidelineError("The draft has changed since you opened this page. Check it again.")
    published = GuidelineVersion.objects.filter(pk=version.pk, state=DRAFT).update(
        state=PUBLISHED, published_by=by, published_at=timezone.now()
    )
    if published != 1:
        raise GuidelineError(f"{version} is already published.")
    Project.objects.filter(pk=guideline.project_id).update(current_version=version)
    audit(by, "guideline published", version, number=version.number)
    version.refresh_from_db()
    return version


def version_before(version: GuidelineVersion) -> GuidelineVersion | None:
    """Return the version before this one, or None for the first."""
    earlier = version.guideline.versions.filter(number__lt=version.number)
    return earlier.order_by("-number").first()


# --- differences ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A piece of a line, with whether it was changed."""

    text: str
    changed: bool = False


@dataclass(frozen=True)
class DiffLine:
    """A line of a diff, made of `pieces`, with its line numbers in the old and new text, from 1."""

    kind: Literal["same", "removed", "added", "gap"]
    pieces: list[Piece]
    old_number: int | None = None
    new_number: int | None = None


def difference(
    old: GuidelineVersion | None, new: GuidelineVersion, context: int | None = CONTEXT_LINES
) -> list[DiffLine]:
    """Return a line diff with marked words, and with `context` unchanged lines around each change.

    Criteria are compared like lines after the text.
    """
    before, after = _lines(old) if old else [], _lines(new)
    lines: list[DiffLine] = []
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for tag, a, a_end, b, b_end in matcher.get_opcodes():
        if tag == "equal":
            lines += [
                DiffLine("same", [Piece(before[a + i])], a + i + 1, b + i + 1)
                for i in range(a_end - a)
            ]
        else:
            lines += _changed(before, a, a_end, after, b, b_end)
    return lines if context is None else _shortened(lines, context)


def _lines(version: GuidelineVersion) -> list[str]:
    criteria = [
        f"{criterion.name}, 1 to {criterion.scale}: {criterion.meaning}"
        for criterion in version.criteria.order_by("position", "id")
    ]
    return version.text.replace("\r\n", "\n").split("\n") + (
        ["", "Criteria", *criteria] if criteria else []
    )


def _changed(
    before: list[str], a: int, a_end: int, after: list[str], b: int, b_end: int
) -> list[DiffLine]:
    removed, added = [], []
    for i in range(max(a_end - a, b_end - b)):
        old = before[a + i] if a + i < a_end else None
        new = after[b + i] if b + i < b_end else None
        old_pieces, new_pieces = _words_compared(old, new)
        if old is not None:
            removed.append(DiffLine("removed", old_pieces, old_number=a + i + 1))
        if new is not None:
            added.append(DiffLine("added", new_pieces, new_number=b + i + 1))
    return removed + added


def _words_compared(old: str | None, new: str | None) -> tuple[list[Piece], list[Piece]]:
    """Return the pieces of two lines. Similar lines are compared word by word; others are one piece."""
    old_words, new_words = _words(old or ""), _words(new or "")
    if not old_words or not new_words or len(old_words) + len(new_words) > WORDS_COMPARED:
        return [Piece(old or "")], [Piece(new or "")]
    matcher = SequenceMatcher(None, old_words, new_words, autojunk=False)
    if matcher.ratio() < 0.3:
        return [Piece(old or "")], [Piece(new or "")]
    old_pieces, new_pieces = [], []
    for tag, a, a_end, b, b_end in matcher.get_opcodes():
        changed = tag != "equal"
        if a_end > a:
            old_pieces.append(Piece("".join(old_words[a:a_end]), changed))
        if b_end > b:
            new_pieces.append(Piece("".join(new_words[b:b_end]), changed))
    return old_pieces, new_pieces


def _words(line: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", line)


def _shortened(lines: list[DiffLine], context: int) -> list[DiffLine]:
    changed = [i for i, line in enumerate(lines) if line.kind != "same"]
    visible = {i for line in changed for i in range(line - context, line + context + 1)}
    short: list[DiffLine] = []
    for i, line in enumerate(lines):
        if i in visible:
            short.append(line)
        elif not short or short[-1].kind != "gap":
            short.append(DiffLine("gap", []))
    return short

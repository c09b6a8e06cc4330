"""One promoted model of a kind in a project; the rest are candidates or archived.

Works on reward models, and on the language models of the app above, which have the same states.
"""

from typing import Any

from django.db import transaction

from accounts.models import User, audit
from labeling.models import Project

CANDIDATE, PROMOTED, ARCHIVED = "candidate", "promoted", "archived"


class CannotMove(Exception):  # noqa: N818
    """The model stays where it is; the text says why."""


@transaction.atomic
def promote(row: Any, *, by: User | None, despite_doubts: bool = False) -> Any | None:
    """Promote the model, and return the one it replaces, which becomes a candidate again.

    Raises CannotMove for an archived model, and for one with `doubts` unless `despite_doubts`
    confirms them. Promoting the promoted one changes nothing.
    """
    row = _locked(row)
    if row.state == PROMOTED:
        return None
    if row.state == ARCHIVED:
        raise CannotMove(f"{row} is archived. Restore it first.")
    doubts = row.doubts()
    if doubts and not despite_doubts:
        raise CannotMove(" ".join(doubts))
    details = {"doubts": doubts}
    before = type(row)._default_manager.filter(project=row.project, state=PROMOTED).first()
    if before:
        _move(before, CANDIDATE)
        details["instead_of"] = before.pk
    _move(row, PROMOTED)
    audit(by, "promoted", row, id=row.pk, **details)
    return before


@transaction.atomic
def archive(row: Any, *, by: User | None) -> None:
    """Take it out of the choices. Raises CannotMove for the promoted one."""
    row = _locked(row)
    if row.state == PROMOTED:
        raise CannotMove(f"{row} is promoted. Promote another one first.")
    if row.state != ARCHIVED:
        _move(row, ARCHIVED)
        audit(by, "archived", row, id=row.pk)


@transaction.atomic
def restore(row: Any, *, by: User | None) -> None:
    row = _locked(row)
    if row.state == ARCHIVED:
        _move(row, CANDIDATE)
        audit(by, "restored", row, id=row.pk)


def _locked(row: Any) -> Any:
    """The row as it is now. The project's lock makes two promotions wait for each other."""
    Project.objects.select_for_update(no_key=True).get(pk=row.project_id)
    return type(row)._default_manager.select_related("project").get(pk=row.pk)


def _move(row: Any, state: str) -> None:
    row.state = state
    row.save(update_fields=["state"])

"""Undo a ranking shortly after it was sent. It no longer counts, and the reviewer gets the task again."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from accounts.models import User
from database import clock
from labeling.models import Project, Ranking, Slot
from labeling.queue.slots import lock_slots, reopen
from labeling.rankings.recording import InvalidRanking
from labeling.rankings.revision_window import is_settled

UNDO_FOR = timedelta(minutes=2)
"""How long a ranking can be undone. The project's revision window does not affect this."""


def can_undo(ranking: Ranking) -> bool:
    """Return whether the ranking was sent less than UNDO_FOR ago and can still be undone.

    A revision cannot be undone, only revised again. In a project that allows no revisions and shows other
    reviewers' rankings, models or suggestions after ranking, nothing can be undone.
    """
    project = ranking.task.project
    shown_after = {project.sees_models, project.sees_others, project.sees_suggestions}
    if Project.Sees.AFTER in shown_after and not project.revision_hours:
        return False
    return (
        ranking.superseded_at is None
        and ranking.supersedes_id is None
        and ranking.source == Ranking.Source.REVIEW
        and not ranking.extra
        and undo_seconds(ranking) > 0
        and not is_settled(ranking.task)
    )


def undo_seconds(ranking: Ranking) -> int:
    """Return how many seconds are left to undo the ranking; 0 or less means that it is too late."""
    return int((ranking.created_at + UNDO_FOR - clock.now()).total_seconds())


def undo(*, ranking: Ranking, reviewer: User, draft: dict[str, Any], attempts: int = 5) -> Slot:
    """Undo a ranking, and lease its slot to the reviewer again with `draft` as its draft.

    The reviewer's current lease becomes the lease ahead, and the lease ahead is freed. Retries if another
    tab undoes a ranking or claims a task at the same moment. Raises InvalidRanking, and changes nothing,
    if it is too late.
    """
    for _attempt in range(1, attempts):
        with suppress(IntegrityError):
            return _undo(ranking, reviewer, draft)
    return _undo(ranking, reviewer, draft)


@transaction.atomic
def _undo(ranking: Ranking, reviewer: User, draft: dict[str, Any]) -> Slot:
    slots = lock_slots(ranking.task)
    ranking = Ranking.objects.select_related("task__project").get(pk=ranking.pk)
    slot = next((slot for slot in slots if slot.ranking_id == ranking.pk), None)
    if ranking.reviewer_id != reviewer.pk or slot is None or not can_undo(ranking):
        raise InvalidRanking(
            {"ranking": _("It is too late to undo this ranking. Revise it instead.")}
        )
    Ranking.objects.filter(pk=ranking.pk).update(superseded_at=clock.now())
    reopen(
        slot,
        project=ranking.task.project,
        reviewer=reviewer,
        shown_order=slot.shown_order or [],
        draft=draft,
    )
    return slot

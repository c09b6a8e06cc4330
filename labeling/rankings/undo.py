"""Taking back what was just sent: the ranking no longer counts, and the task is before its reviewer again."""

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
"""How long what was sent can be taken back, whatever a project says of revisions."""


def can_undo(ranking: Ranking) -> bool:
    """Whether it was sent a moment ago and stands in its slot. A revision is revised, not undone.

    Nor is there a way back where others' answers may be read after ranking and nothing revised.
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
        and not is_settled(ranking)
    )


def undo_seconds(ranking: Ranking) -> int:
    """For how much longer it can be taken back; 0 or less when it cannot."""
    return int((ranking.created_at + UNDO_FOR - clock.now()).total_seconds())


def undo(*, ranking: Ranking, reviewer: User, draft: dict[str, Any], attempts: int = 5) -> Slot:
    """Undo the ranking just sent: its slot is the reviewer's again, with `draft` in it.

    The task they have before them meanwhile becomes their next, and the one that was their next
    goes back. Raises InvalidRanking when it is too late; then nothing changed.
    Where another tab takes something back or asks for a task just then, a constraint stops one of
    them, and this looks again.
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
            {"ranking": _("It is too late to take this ranking back. It can be revised instead.")}
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

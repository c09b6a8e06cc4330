"""Undo a skip. The reviewer can do so within two minutes, a lead at any time."""

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from accounts.models import User, audit
from database import clock
from labeling.models import Project, QueueCursor, Skip, Slot, Task
from labeling.queue.slots import OFF_QUEUE, lock_slots, reopen
from labeling.rankings.recording import InvalidRanking
from labeling.rankings.revision_window import is_settled
from labeling.rankings.undo import UNDO_FOR


def newest(project: Project, reviewer: User) -> Skip | None:
    """Return the reviewer's newest skip if it can still be undone, otherwise None."""
    since = clock.now() - UNDO_FOR
    recent = Skip.objects.filter(reviewer=reviewer, task__project=project, created_at__gt=since)
    skip = recent.select_related("task").order_by("-id").first()
    return skip if skip is not None and can_undo(skip) else None


def can_undo(skip: Skip) -> bool:
    """Return whether the reviewer can still undo the skip."""
    return undo_seconds(skip) > 0 and not is_settled(skip.task)


def undo_seconds(skip: Skip) -> int:
    """Return how many seconds are left to undo the skip; 0 or less means that it is too late."""
    return int((skip.created_at + UNDO_FOR - clock.now()).total_seconds())


def undo(*, skip_id: int, project: Project, reviewer: User) -> Slot:
    """Give the task back to the reviewer, with their draft.

    The reviewer's current lease becomes the lease ahead, as after undoing a ranking. Raises
    InvalidRanking, and changes nothing, if it is too late or the task has no free slot left.
    """
    try:
        return _undo(skip_id, project, reviewer)
    except IntegrityError:  # another tab claimed a task at the same moment
        return _undo(skip_id, project, reviewer)


@transaction.atomic
def _undo(skip_id: int, project: Project, reviewer: User) -> Slot:
    own = Skip.objects.filter(reviewer=reviewer, task__project=project)
    task_id = own.filter(pk=skip_id).values_list("task", flat=True).first()
    slots = lock_slots(Task(pk=task_id)) if task_id else []
    skip = own.filter(pk=skip_id).select_related("task").select_for_update(of=("self",)).first()
    if skip is None or not can_undo(skip):
        raise InvalidRanking(
            {"skip": _("It is too late to undo this skip. Ask a lead to undo it.")}
        )
    slot = next((slot for slot in slots if _is_free(slot, skip.task)), None)
    if slot is None:
        raise InvalidRanking(
            {"skip": _("Other reviewers have taken all remaining rankings of this task.")}
        )
    order = skip.shown_order or slot.shown_order or []
    reopen(slot, project=project, reviewer=reviewer, shown_order=order, draft=skip.draft)
    skip.delete()
    return slot


def _is_free(slot: Slot, task: Task) -> bool:
    """Return whether the slot is free, has no draft, and can be given out."""
    on_queue = (
        slot.priority < OFF_QUEUE or task.kind == Task.Kind.GOLD
    )  # gold is never on the queue
    return (
        slot.reviewer_id is None
        and slot.draft_by_id is None
        and on_queue
        and not (task.held or task.inactive)
    )


@transaction.atomic
def undo_by_lead(*, skip: Skip, by: User) -> None:
    """Delete the skip, so that the queue offers the task to its reviewer again.

    Raises InvalidRanking if the skip is part of training or qualification, or is already undone.
    """
    if is_settled(skip.task):
        raise InvalidRanking(
            {
                "skip": "Skips in training and qualification cannot be undone. Allow another attempt instead."
            }
        )
    deleted, _rows = Skip.objects.filter(pk=skip.pk).delete()
    if not deleted:
        raise InvalidRanking({"skip": "This skip is already undone."})
    cursors = QueueCursor.objects.filter(project=skip.task.project_id, reviewer=skip.reviewer_id)
    cursors.update(position=0)
    details = {"reviewer": skip.reviewer.username, "reason": skip.reason, "note": skip.note}
    audit(by, "skip undone", skip.task, **details)

"""Slots: a task has one for each ranking that it needs.

A slot is free, leased to a reviewer, or filled with a ranking.

Only the modules in labeling.queue write slots, and most changes to a slot are functions in this module.
Statements that would be slow through the ORM have their own modules: claims, filling, tasks, raising,
arrangement and withdrawals. A trigger frees the leases of removed members and deactivated users
(migration 0017).

Free slots are given out by priority, highest first, and then by position. A task's slots have consecutive
positions, so that tasks are completed one after the other: agreement can be computed only for a task with
several rankings. A freed slot goes to the back of its priority. The cost of a claim does not depend on
the number of tasks, as labeling.queue.claims explains.

A reviewer holds at most two leases per project: the current one, and a lease ahead, so that the next task
can be shown without waiting. When the current lease ends, the next claim makes the lease ahead current.
Slots with the priority OFF_QUEUE are never claimed; `lease_new_slot` leases them.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, models, transaction
from django.db.models import Case, F, Q, QuerySet, Value, When
from django.db.models.functions import Now

from accounts.models import User
from database import clock
from labeling.models import Project, QueueCursor, Ranking, Skip, Slot, Task
from labeling.queue.claims import LEASE, claim_leases
from labeling.queue.withdrawals import parked, withdrawn_of

RESCAN_AFTER = timedelta(minutes=1)
OFF_QUEUE = 10
"""Priority of slots that are never claimed. Claims use the priorities 0 to 9."""

BATCH_SIZE = 1000


class NextPosition(models.Func):
    """The SQL expression for a new position at the back of the queue."""

    template = "nextval('labeling_queue_position')"
    output_field = models.BigIntegerField()


# --- adding and removing slots --------------------------------------------------------------------


def lock_slots(task: Task) -> list[Slot]:
    """Lock the task's slots, which serialises changes to the task, and return them by number."""
    return list(Slot.objects.filter(task=task).order_by("number").select_for_update())


@transaction.atomic
def add_slot(*, task: Task) -> Slot:
    """Add a free slot to a task, which then needs one more ranking.

    The slot's priority is one above the task's, so that tasks in progress are completed first. Raises
    ValueError for a task that already needs nine rankings.
    """
    locked = Task.objects.select_for_update(no_key=True).get(pk=task.pk)
    if locked.rankings_wanted >= 9:
        raise ValueError(f"{task} already needs 9 rankings, the maximum.")
    Task.objects.filter(pk=task.pk).update(
        rankings_wanted=F("rankings_wanted") + 1, stopped_below=None
    )
    priority = min(locked.priority + 1, 9)
    return append_slot(locked, number=_next_number(locked), priority=priority)


def append_slot(task: Task, *, number: int, priority: int) -> Slot:
    """Create a free slot at the back of the queue.

    The caller must hold a lock on the task or its slots, so that no other transaction uses the number.
    """
    return Slot.objects.create(
        task=task,
        number=number,
        project_id=task.project_id,
        position=NextPosition(),
        priority=parked(task, priority),
    )


def _next_number(task: Task) -> int:
    highest = task.slots.aggregate(number=models.Max("number"))["number"]
    return (highest or 0) + 1


def remove_slots(*, task: Task, slot_ids: Collection[int]) -> None:
    """Delete free slots of a task and reduce the number of rankings it needs accordingly."""
    Task.objects.filter(pk=task.pk).update(rankings_wanted=F("rankings_wanted") - len(slot_ids))
    Slot.objects.filter(pk__in=slot_ids).delete()


def remove_imported(*, tasks: QuerySet[Task], rankings: QuerySet[Ranking]) -> None:
    """Undo what an import did to slots: delete those of its tasks, and free others that it filled."""
    Slot.objects.filter(task__in=tasks).delete()
    Slot.objects.filter(ranking__in=rankings).update(ranking=None, reviewer=None)


# --- leasing slots --------------------------------------------------------------------------------


def claim(*, project: Project, reviewer: User) -> Slot | None:
    """Return the reviewer's current lease in the project, renewed, or None if no task is left.

    Without a current lease, the lease ahead becomes current. Without either, a free slot is leased.
    Costs one statement, which does not get slower with more tasks, rankings or skips. If no slot is
    found, expired leases are freed and, at most once a minute, the whole queue is searched.
    """
    return _claim_or_rescan(project, reviewer, ahead=False)


def claim_ahead(*, project: Project, reviewer: User) -> Slot | None:
    """Return the reviewer's lease ahead, renewed or new, or None if no task is left.

    The lease is for another task than the current lease. Without a current lease, return None. The slot
    has no `shown_at` until `mark_shown` is called. Costs as much as `claim`.
    """
    return _claim_or_rescan(project, reviewer, ahead=True)


def advance(
    *, project: Project, reviewer: User, shown_slot: int
) -> tuple[Slot | None, Slot | None]:
    """Return the current lease and the lease ahead for a page that shows the slot `shown_slot`.

    Combines `claim`, `mark_shown` (if `shown_slot` is now the current slot) and `claim_ahead`. Costs
    one statement if the reviewer holds a lease of either kind, which is usual after a submission.
    """
    slots = claim_leases(project, reviewer, ahead=True, promote=True, shown_slot=shown_slot)
    current = slots.get(False) or claim(project=project, reviewer=reviewer)
    if current is None:
        return None, None
    return current, slots.get(True) or claim_ahead(project=project, reviewer=reviewer)


@transaction.atomic
def lease_new_slot(*, task: Task, reviewer: User, ahead: bool = False) -> Slot:
    """Lease a slot of a gold task, which the queue does not give out.

    When the lease ends, only this function can lease the slot again. If the reviewer already holds a
    lease of this task, or of the same kind (current or ahead), that lease is returned. Raises ValueError
    if the reviewer has ranked the task, or if the task is withdrawn.
    """
    locked = Task.objects.select_for_update(no_key=True).get(pk=task.pk)
    if locked.inactive:
        raise ValueError(f"{task} is withdrawn.")
    same_use = Q(project=locked.project_id, ahead=ahead) | Q(task=locked)
    leases = Slot.objects.filter(same_use, reviewer=reviewer, leased_until__isnull=False)
    if lease := leases.order_by("ahead").first():
        return lease
    if locked.rankings.filter(reviewer=reviewer, superseded_at=None).exists():
        raise ValueError(f"{reviewer} has ranked {task} already.")
    free = locked.slots.filter(reviewer=None, priority=OFF_QUEUE)
    slot = (
        free.filter(draft_by=reviewer).first()
        or free.filter(draft_by=None).first()
        or append_slot(locked, number=_next_number(locked), priority=OFF_QUEUE)
    )
    values = {"id": slot.pk, "reviewer": reviewer.pk, "ahead": ahead}
    try:
        with transaction.atomic():
            [leased] = Slot.objects.raw(LEASE, values)
    except IntegrityError:  # another tab leased a slot at the same moment
        return leases.order_by("ahead").get()
    return leased


def _claim_or_rescan(project: Project, reviewer: User, *, ahead: bool) -> Slot | None:
    slots = claim_leases(project, reviewer, ahead=ahead)
    if ahead not in slots and (slots or not ahead) and _rescan(project, reviewer):
        slots = claim_leases(project, reviewer, ahead=ahead)
    if not slots and not ahead:
        return _leased_by_another_tab(project, reviewer)
    return slots.get(ahead) if False in slots else None


def _leased_by_another_tab(project: Project, reviewer: User) -> Slot | None:
    """Return the current lease, which another tab of the reviewer may have claimed just now.

    When two tabs claim the last slot, the slower claim skips the slot, because it is locked.
    """
    leases = Slot.objects.filter(project=project, reviewer=reviewer, leased_until__isnull=False)
    return leases.filter(ahead=False).first()


def _rescan(project: Project, reviewer: User) -> bool:
    """Free expired leases and reset cursors older than RESCAN_AFTER; return whether any changed."""
    freed = release_expired(project=project)
    reset = QueueCursor.objects.filter(
        project=project,
        reviewer=reviewer,
        position__gt=0,
        rescanned_at__lt=Now() - RESCAN_AFTER,
    ).update(position=0, rescanned_at=Now())
    return bool(freed or reset)


# --- while a slot is leased -----------------------------------------------------------------------


def _leased(slot_id: int, reviewer: User, project: Project | None = None) -> QuerySet[Slot]:
    return _slots_of(project).filter(pk=slot_id, reviewer=reviewer, leased_until__isnull=False)


def _slots_of(project: Project | None) -> QuerySet[Slot]:
    """Return the slots of a project, or all slots if there is no project.

    A page passes the project to which it has checked access. Otherwise, a request could change a lease
    in another project, such as one that the reviewer has left.
    """
    return Slot.objects.filter(project=project) if project else Slot.objects.all()


def _lease_end() -> models.Subquery:
    minutes = Project.objects.filter(pk=models.OuterRef("project_id")).annotate(
        until=models.ExpressionWrapper(
            Now() + Value(timedelta(minutes=1)) * F("lease_minutes"),
            output_field=models.DateTimeField(),
        )
    )
    return models.Subquery(minutes.values("until"))


def mark_shown(*, slot_id: int, reviewer: User) -> bool:
    """Record when the reviewer first saw the slot; return whether this was the first time."""
    return bool(_leased(slot_id, reviewer).filter(shown_at=None).update(shown_at=Now()))


def renew(*, slot_id: int, reviewer: User, project: Project | None = None) -> bool:
    """Renew a lease and the reviewer's lease ahead; return False if the reviewer has lost the slot."""
    if not _leased(slot_id, reviewer, project).update(leased_until=_lease_end()):
        return False
    same_project = Slot.objects.filter(pk=slot_id).values("project")
    Slot.objects.filter(project__in=same_project, reviewer=reviewer, ahead=True).update(
        leased_until=_lease_end()
    )
    return True


def save_draft(
    *, slot_id: int, reviewer: User, draft: dict[str, Any], project: Project | None = None
) -> bool:
    """Save an unfinished answer and renew the lease; return False if someone else has the slot.

    The draft is kept after the lease has expired, until someone else takes the slot.
    """
    values = {"draft": draft, "draft_by": reviewer, "leased_until": _lease_end()}
    if _leased(slot_id, reviewer, project).update(**values):
        return True
    expired = _slots_of(project).filter(pk=slot_id, reviewer=None, draft_by=reviewer)
    return bool(expired.update(draft=draft))


def why_lost(*, slot_id: int, reviewer: User) -> str:
    """Return why the reviewer no longer holds the slot: `ranked`, `withdrawn`, `skipped` or `expired`.

    The reviewer may have ranked or skipped the task in another tab.
    """
    own = {"reviewer": reviewer, "task__slots": slot_id}
    if Ranking.objects.filter(superseded_at=None, **own).exists():
        return "ranked"
    if Slot.objects.filter(pk=slot_id, task__inactive=True).exists():
        return "withdrawn"
    return "skipped" if Skip.objects.filter(**own).exists() else "expired"


@transaction.atomic
def skip(
    *,
    slot_id: int,
    reviewer: User,
    reason: str,
    note: str = "",
    project: Project | None = None,
) -> bool:
    """Release the slot and never offer its task to the reviewer again.

    Return False if someone else has the slot. Raises ValueError for an unknown reason.
    """
    if reason not in Skip.Reason.values:
        raise ValueError(f"A reason to skip is one of {', '.join(Skip.Reason.values)}.")
    slot = _leased(slot_id, reviewer, project).select_for_update().first()
    if slot is None:
        return False
    Skip.objects.get_or_create(
        task_id=slot.task_id,
        reviewer=reviewer,
        defaults={
            "reason": reason,
            "note": note[:500],
            "shown_order": slot.shown_order or [],
            "draft": slot.draft if slot.draft_by_id == reviewer.pk else None,
        },
    )
    return release(slot_id=slot_id, reviewer=reviewer)


# --- freeing slots --------------------------------------------------------------------------------

_NOT_LEASED: dict[str, Any] = {"reviewer": None, "leased_until": None, "ahead": False}
_NO_DRAFT: dict[str, Any] = {
    "shown_order": None, "shown_at": None, "draft": None, "draft_by": None,
}  # fmt: skip


def free_leases(slots: QuerySet[Slot], *, keep_drafts: bool = True) -> int:
    """Free the leased slots among these, move them to the back of the queue, and return their number.

    A slot that keeps an unfinished draft also keeps the order in which its responses were shown.
    """
    values = _NO_DRAFT
    if keep_drafts:
        has_draft = Q(draft_by__isnull=False)
        values = {name: Case(When(has_draft, then=F(name))) for name in ("shown_order", "shown_at")}
    leased = slots.filter(leased_until__isnull=False)
    return leased.update(**_NOT_LEASED, **values, position=NextPosition())


def release(*, slot_id: int, reviewer: User) -> bool:
    """Free the reviewer's slot and delete its draft; return False if someone else has the slot."""
    return bool(free_leases(_leased(slot_id, reviewer), keep_drafts=False))


def release_expired(*, project: Project | None = None) -> int:
    """Free expired leases in one project, or in all projects; return their number. Keeps drafts."""
    expired = _slots_of(project).filter(leased_until__lt=Now())
    freed = 0
    while batch := _free_batch(expired):
        freed += batch
        if batch < BATCH_SIZE:
            break
    return freed


@transaction.atomic
def _free_batch(expired: QuerySet[Slot]) -> int:
    locked = expired.order_by("leased_until").select_for_update(skip_locked=True)
    ids = list(locked.values_list("pk", flat=True)[:BATCH_SIZE])
    return free_leases(Slot.objects.filter(pk__in=ids)) if ids else 0


def forget_drafts(slots: QuerySet[Slot]) -> None:
    """Delete the drafts in these slots without changing their leases."""
    slots.update(draft=None, draft_by=None)


def forget_rankings(slots: QuerySet[Slot]) -> None:
    """Free these slots, whether filled or leased, and remove their rankings and drafts."""
    slots.update(**_NOT_LEASED, **_NO_DRAFT, ranking=None)


# --- filling slots --------------------------------------------------------------------------------


def fill(slot: Slot, ranking: Ranking) -> None:
    """Fill the slot, whether leased or not. The caller must have locked the task's slots."""
    Slot.objects.filter(pk=slot.pk).update(
        reviewer=ranking.reviewer_id,
        leased_until=None,
        ahead=False,
        ranking=ranking,
        shown_order=ranking.shown_order,
        draft=None,
        draft_by=None,
    )


def replace_ranking(*, old: Ranking, new: Ranking) -> None:
    """Put a revision into the slot of the ranking that it supersedes, unless that is an extra ranking."""
    Slot.objects.filter(ranking=old).update(ranking=new)


def reopen(
    slot: Slot,
    *,
    project: Project,
    reviewer: User,
    shown_order: Collection[int],
    draft: dict[str, Any] | None,
) -> None:
    """Make a slot the reviewer's current lease again after an undone ranking or skip.

    The reviewer's current lease becomes the lease ahead, and the lease ahead is freed. Withdrawn
    responses are removed from `shown_order`. The caller must have locked the task's slots.
    """
    _make_room(project, reviewer)
    if slot.ranking_id is None:  # a skip has cleared this time
        slot.shown_at = clock.now()
    slot.reviewer, slot.ranking, slot.ahead = reviewer, None, False
    slot.leased_until = clock.now() + timedelta(minutes=project.lease_minutes)
    slot.draft, slot.draft_by = draft, reviewer if draft else None
    withdrawn = withdrawn_of([slot.task_id])
    slot.shown_order = [pk for pk in shown_order if pk not in withdrawn]
    slot.save(
        update_fields=[
            "reviewer", "ranking", "ahead", "leased_until", "shown_order", "shown_at", "draft",
            "draft_by",
        ]
    )  # fmt: skip


def _make_room(project: Project, reviewer: User) -> None:
    """Make the current lease the lease ahead and free the old one: a reviewer can hold one of each."""
    leases = Slot.objects.select_for_update().filter(
        project=project, reviewer=reviewer, leased_until__isnull=False
    )
    by_ahead = {lease.ahead: lease for lease in leases.order_by("pk")}
    if (current := by_ahead.get(False)) is None:
        return
    if (ahead := by_ahead.get(True)) is not None:
        free_leases(Slot.objects.filter(pk=ahead.pk))
    Slot.objects.filter(pk=current.pk).update(ahead=True)

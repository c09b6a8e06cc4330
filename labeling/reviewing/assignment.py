"""The choice of a reviewer's next task.

Training comes first, and then qualification. After that, the next task is gold if gold is due, and
otherwise comes from the queue. In a project without training, gold and qualification, this costs one
query more than the queue alone.
"""

from dataclasses import dataclass

from psycopg.types.numeric import Int8

from accounts.models import User
from database.statements import fetch
from labeling.gold import courses, qualification, schedule
from labeling.gold.courses import Course
from labeling.models import Gold, Project, Qualification, Slot, Task
from labeling.queue import slots

TRAINING, QUALIFYING = Gold.Purpose.TRAINING, Gold.Purpose.QUALIFICATION


_TRAINS = """
SELECT EXISTS (SELECT FROM labeling_gold gold WHERE gold.project_id = %(project)s
    AND gold.purpose = 'training' AND gold.retired_at IS NULL)
"""


@dataclass(frozen=True)
class Stage:
    """Training or qualification, which come before real tasks, and the reviewer's progress in it.

    `course.next` is None if the attempt failed or no task is left.
    """

    purpose: str
    course: Course
    attempt: Qualification | None = None

    @property
    def number(self) -> int:
        """Return the number of the current task, counted from 1."""
        return self.course.done + 1

    @property
    def failed(self) -> bool:
        return self.attempt is not None and self.attempt.state == qualification.FAILED


def stage(*, project: Project, reviewer: User) -> Stage | None:
    """Return the reviewer's stage, or None if real work is next.

    Begins or ends a qualification if necessary. Costs one to six queries.
    """
    if project.current_version_id is None:
        return None
    course = courses.course(project=project, reviewer=reviewer, purpose=TRAINING)
    if course.next is not None:
        return Stage(TRAINING, course)
    if not project.qualification_percent:
        return None
    attempt = qualification.ensure(project=project, reviewer=reviewer)
    if attempt.state == qualification.PASSED:
        return None
    course = courses.course(project=project, reviewer=reviewer, purpose=QUALIFYING)
    if attempt.state == qualification.FAILED:
        course = Course(course.done, course.total, None)
    return Stage(QUALIFYING, course, attempt)


def stage_of(slot: Slot) -> Stage | None:
    """Return the stage to which a reviewer's slot belongs, or None for real work and gold checks."""
    if slot.task.kind != Task.Kind.GOLD or slot.reviewer is None:
        return None
    purpose = Gold.objects.filter(task=slot.task_id).values_list("purpose", flat=True).first()
    if purpose not in (TRAINING, QUALIFYING):
        return None
    return Stage(
        purpose, courses.course(project=slot.project, reviewer=slot.reviewer, purpose=purpose)
    )


def current(*, project: Project, reviewer: User) -> Slot | None:
    """Return the slot of the reviewer's current task, leased to them, or None if there is no task.

    A task that the reviewer has open stays theirs, even if a qualification ends in the meantime, so
    that no work is lost.
    """
    if project.current_version_id is None:
        return None
    if not _has_gold_or_training(project):
        return slots.claim(project=project, reviewer=reviewer)
    leases = _leases(project, reviewer)
    if False not in leases:
        if (before := stage(project=project, reviewer=reviewer)) is not None:
            return _course_slot(before, leases.get(True), reviewer)
        if True not in leases:
            _lease_gold_check(project, reviewer, ahead=False)
    return slots.claim(project=project, reviewer=reviewer)


def ahead(*, project: Project, reviewer: User) -> Slot | None:
    """Return the slot that is leased ahead of the current one, or None if there is none.

    In training and qualification no slot is leased ahead, because the next task depends on the answer
    to the current one.
    """
    if project.current_version_id is None:
        return None
    if _has_gold_or_training(project):
        leases = _leases(project, reviewer)
        if False not in leases or stage_of(leases[False]) is not None:
            return None
        if stage(project=project, reviewer=reviewer) is not None:
            return None
        if True not in leases:
            _lease_gold_check(project, reviewer, ahead=True)
    return slots.claim_ahead(project=project, reviewer=reviewer)


def advance(
    *, project: Project, reviewer: User, shown_slot: int
) -> tuple[Slot | None, Slot | None]:
    """Return the current slot and the slot ahead for a page that now shows the slot `shown_slot`.

    That slot is marked as shown if it is the current one; see slots.advance. Costs two queries in a
    project without training, gold and qualification.
    """
    if project.current_version_id is not None and not _has_gold_or_training(project):
        return slots.advance(project=project, reviewer=reviewer, shown_slot=shown_slot)
    slot = current(project=project, reviewer=reviewer)
    if slot is None:
        return None, None
    if slot.pk == shown_slot:
        slots.mark_shown(slot_id=shown_slot, reviewer=reviewer)
    return slot, ahead(project=project, reviewer=reviewer)


def _has_gold_or_training(project: Project) -> bool:
    """Return whether gold or training affects the next task. Costs at most one query."""
    if project.gold_percent or project.qualification_percent:
        return True
    [[training]] = fetch(_TRAINS, {"project": Int8(project.pk)})
    return training


def _leases(project: Project, reviewer: User) -> dict[bool, Slot]:
    """Return the reviewer's leases: the current one under False, the lease ahead under True."""
    held = Slot.objects.filter(project=project, reviewer=reviewer, leased_until__isnull=False)
    return {slot.ahead: slot for slot in held.select_related("task", "project", "reviewer")}


def _course_slot(before: Stage, unseen: Slot | None, reviewer: User) -> Slot | None:
    if unseen is not None:
        slots.release(slot_id=unseen.pk, reviewer=reviewer)
    if before.course.next is None:
        return None
    return slots.lease_new_slot(task=before.course.next.task, reviewer=reviewer)


def _lease_gold_check(project: Project, reviewer: User, *, ahead: bool) -> None:
    """Lease a gold task if one is due. The queue then treats it like any other lease."""
    task_id = schedule.due(project, reviewer)
    if task_id is not None:
        slots.lease_new_slot(task=Task.objects.get(pk=task_id), reviewer=reviewer, ahead=ahead)

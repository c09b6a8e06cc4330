"""Whether a reviewer may do a project's real work: tasks with known answers, before any other.

An attempt belongs to a guideline version. It ends when every qualification task has been answered
or skipped, and is passed when enough of them are right. A later version that says so ends what was
passed before it. Another attempt after a failure is for a lead to allow.
"""

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils import timezone

from accounts.models import User, audit
from labeling.gold import constraints
from labeling.models import (
    Gold,
    GuidelineVersion,
    Project,
    Qualification,
    Ranking,
    Skip,
    Slot,
)
from labeling.queue.slots import forget_rankings

OPEN = Qualification.State.OPEN
PASSED = Qualification.State.PASSED
FAILED = Qualification.State.FAILED

PURPOSE = Gold.Purpose.QUALIFICATION
REVIEWERS_AT_MOST = 500


class QualificationError(ValueError):
    """A sentence for the lead. Nothing was written."""


def attempt_of(*, project: Project, reviewer: User) -> Qualification | None:
    """The attempt that counts: the newest, unless a guideline since asks to qualify again.

    Two queries, one where there is no attempt.
    """
    attempts = Qualification.objects.filter(project=project, reviewer=reviewer)
    newest = attempts.select_related("version").order_by("-pk").first()
    if newest is None or newest.version.number < requalifying_version(project):
        return None
    return newest


def requalifying_version(project: Project) -> int:
    """Return the number of the newest version that ended every qualification; 0 without one."""
    versions = GuidelineVersion.objects.filter(
        guideline__project=project, requalify=True, state=GuidelineVersion.State.PUBLISHED
    )
    return versions.aggregate(newest=Max("number"))["newest"] or 0


def newest_attempts(project: Project) -> list[Qualification]:
    """The newest of each reviewer, REVIEWERS_AT_MOST of them. A query."""
    attempts = Qualification.objects.filter(project=project).order_by("reviewer", "-pk")
    return list(
        attempts.distinct("reviewer").select_related("reviewer", "version")[:REVIEWERS_AT_MOST]
    )


def needed(project: Project) -> int:
    """How many of the qualification tasks must be right."""
    tasks = _tasks(project).count()
    return -(-project.qualification_percent * tasks // 100)


def _tasks(project: Project) -> Any:
    return Gold.objects.filter(
        project=project,
        purpose=PURPOSE,
        retired_at=None,
        task__held=False,
        task__out_of_use=False,
    )


# --- the life of an attempt ----------------------------------------------------------------------


def ensure(*, project: Project, reviewer: User) -> Qualification:
    """The attempt that counts, begun when there is none; ended when nothing is left to answer.

    Needs a published guideline.
    """
    attempt = attempt_of(project=project, reviewer=reviewer) or begin(
        project=project, reviewer=reviewer
    )
    return _ended(attempt) if attempt.state == OPEN else attempt


def ended_with(ranking: Ranking) -> Qualification | None:
    """The attempt, when the reviewer just answered its last task; None for any other ranking."""
    if not Gold.objects.filter(task=ranking.task_id, purpose=PURPOSE).exists():
        return None
    project, reviewer = ranking.task.project, ranking.reviewer
    attempt = attempt_of(project=project, reviewer=reviewer)
    if attempt is None or attempt.state != OPEN or not project.qualification_percent:
        return None
    attempt = _ended(attempt)
    return attempt if attempt.state != OPEN else None


@transaction.atomic
def begin(*, project: Project, reviewer: User) -> Qualification:
    """A new attempt under today's guideline, from the first task on; one under way ends for it."""
    current = Project.objects.filter(pk=project.pk).values("current_version")
    version = GuidelineVersion.objects.get(pk__in=current)
    attempts = Qualification.objects.filter(project=project, reviewer=reviewer)
    outdated = attempts.filter(state=OPEN).exclude(version=version)
    outdated.update(state=FAILED, ended_at=timezone.now())
    try:
        with transaction.atomic():
            attempt = Qualification.objects.create(
                project=project, reviewer=reviewer, version=version
            )
    except IntegrityError:  # begun in another tab at this moment
        return attempts.get(state=OPEN)
    _forget_answers(project, reviewer)
    return attempt


def _forget_answers(project: Project, reviewer: User) -> None:
    """Let the tasks be answered again. The rankings are kept, marked superseded."""
    tasks = _tasks(project).values("task")
    slots = Slot.objects.filter(task__in=tasks, reviewer=reviewer).order_by("task", "number")
    held = list(slots.select_for_update().values_list("pk", flat=True))
    answers = Ranking.objects.filter(task__in=tasks, reviewer=reviewer, superseded_at=None)
    answers.update(superseded_at=timezone.now())
    forget_rankings(Slot.objects.filter(pk__in=held))
    Skip.objects.filter(task__in=tasks, reviewer=reviewer).delete()


@transaction.atomic
def _ended(attempt: Qualification) -> Qualification:
    """The attempt, with its outcome when every task is answered. A task skipped is not right."""
    project, reviewer = attempt.project, attempt.reviewer
    course = constraints.course(project=project, reviewer=reviewer, purpose=PURPOSE)
    if course.next is not None or not course.total:
        return attempt
    tasks = {one.task_id: one for one in _tasks(project)}
    answers = Ranking.objects.filter(task__in=tasks, reviewer=reviewer, superseded_at=None)
    right = sum(
        constraints.meets(answer.tiers, answer.cut, tasks[answer.task_id].constraints)
        for answer in answers
    )
    passed = right * 100 >= project.qualification_percent * course.total
    ended = Qualification.objects.filter(pk=attempt.pk, state=OPEN).update(
        state=PASSED if passed else FAILED,
        right=right,
        asked=course.total,
        ended_at=timezone.now(),
    )
    attempt.refresh_from_db()
    if ended:
        audit(reviewer, f"qualification {attempt.state}", attempt, right=right, asked=course.total)
    return attempt


@transaction.atomic
def allow_again(*, project: Project, reviewer: User, by: User) -> Qualification:
    """Another attempt for someone who failed. Raises QualificationError."""
    attempt = attempt_of(project=project, reviewer=reviewer)
    if attempt is None or attempt.state != FAILED:
        raise QualificationError(f"{reviewer} has not failed, so there is nothing to allow.")
    again = begin(project=project, reviewer=reviewer)
    audit(by, "qualification allowed again", again)
    return again

"""Qualification: tasks with known answers that reviewers must pass before they do real work.

An attempt is made under one guideline version. It ends when every qualification task is answered or
skipped, and is passed if enough answers are right. A later version with `requalify` makes earlier
qualifications invalid. After a failed attempt, a lead can allow another one.
"""

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils import timezone

from accounts.models import User, audit
from labeling.gold import constraints, courses
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
MAX_REVIEWERS = 500


class QualificationError(ValueError):
    """Raised if the request is refused, before anything is written. The message is for the lead."""


def attempt_of(*, project: Project, reviewer: User) -> Qualification | None:
    """Return the reviewer's newest attempt, or None if a later guideline version made it invalid.

    Costs two queries, or one if there is no attempt.
    """
    attempts = Qualification.objects.filter(project=project, reviewer=reviewer)
    newest = attempts.select_related("version").order_by("-pk").first()
    if newest is None or newest.version.number < requalifying_version(project):
        return None
    return newest


def requalifying_version(project: Project) -> int:
    """Return the number of the newest version that made earlier qualifications invalid, or 0."""
    versions = GuidelineVersion.objects.filter(
        guideline__project=project, requalify=True, state=GuidelineVersion.State.PUBLISHED
    )
    return versions.aggregate(newest=Max("number"))["newest"] or 0


def newest_attempts(project: Project) -> list[Qualification]:
    """Return the newest attempt of each reviewer, for up to MAX_REVIEWERS. Costs one query."""
    attempts = Qualification.objects.filter(project=project).order_by("reviewer", "-pk")
    return list(attempts.distinct("reviewer").select_related("reviewer", "version")[:MAX_REVIEWERS])


def needed(project: Project) -> int:
    """Return how many qualification tasks a reviewer must answer correctly."""
    tasks = _tasks(project).count()
    return -(-project.qualification_percent * tasks // 100)


def _tasks(project: Project) -> Any:
    return Gold.objects.filter(
        project=project,
        purpose=PURPOSE,
        retired_at=None,
        task__held=False,
        task__inactive=False,
    )


# --- attempts -------------------------------------------------------------------------------------


def ensure(*, project: Project, reviewer: User) -> Qualification:
    """Return the current attempt. Begin one if there is none, and end it if no task is left.

    The project must have a published guideline.
    """
    attempt = attempt_of(project=project, reviewer=reviewer) or begin(
        project=project, reviewer=reviewer
    )
    return _ended(attempt) if attempt.state == OPEN else attempt


def ended_with(ranking: Ranking) -> Qualification | None:
    """Return the attempt that this ranking ended, or None."""
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
    """Begin an attempt under the current guideline version. An open attempt under another one fails."""
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
    except IntegrityError:  # another tab began an attempt at the same moment
        return attempts.get(state=OPEN)
    _forget_answers(project, reviewer)
    return attempt


def _forget_answers(project: Project, reviewer: User) -> None:
    """Remove the reviewer's answers, so that they can answer the tasks again.

    The rankings are kept as superseded.
    """
    tasks = _tasks(project).values("task")
    slots = Slot.objects.filter(task__in=tasks, reviewer=reviewer).order_by("task", "number")
    slot_ids = list(slots.select_for_update().values_list("pk", flat=True))
    answers = Ranking.objects.filter(task__in=tasks, reviewer=reviewer, superseded_at=None)
    answers.update(superseded_at=timezone.now())
    forget_rankings(Slot.objects.filter(pk__in=slot_ids))
    Skip.objects.filter(task__in=tasks, reviewer=reviewer).delete()


@transaction.atomic
def _ended(attempt: Qualification) -> Qualification:
    """Return the attempt, after ending it if no task is left. Skipped tasks count as wrong answers."""
    project, reviewer = attempt.project, attempt.reviewer
    course = courses.course(project=project, reviewer=reviewer, purpose=PURPOSE)
    if course.next is not None or not course.total:
        return attempt
    tasks = {gold.task_id: gold for gold in _tasks(project)}
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
    """Begin another attempt for a reviewer. Raises QualificationError unless the last one failed."""
    attempt = attempt_of(project=project, reviewer=reviewer)
    if attempt is None or attempt.state != FAILED:
        raise QualificationError(f"{reviewer} has no failed attempt, so no other one is needed.")
    again = begin(project=project, reviewer=reviewer)
    audit(by, "qualification allowed again", again)
    return again

"""Withdraw prompts, responses and tasks, and restore them.

Nothing is deleted. Withdrawn content is removed from the queue, disputes, gold, statistics, exports and
later snapshots, and its rankings are kept and marked. A reviewer who has the task open loses the lease,
but a ranking that they still send is also kept. labeling.queue.withdrawals updates tasks and slots. To
remove content permanently, use labeling.removal.erasing.
"""

from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from accounts.models import User, audit
from labeling.core.text import storable
from labeling.models import Project, Prompt, Ranking, Response, Slot, Task
from labeling.queue import withdrawals

Content = Prompt | Response | Task
MAX_REASON_LENGTH = 300


@dataclass(frozen=True)
class Effect:
    """The effect that withdrawing content would have on active tasks."""

    tasks: int
    smaller: int
    """Number of tasks that would continue without the response."""
    rankings: int
    """Number of current rankings that the affected tasks have. They are kept."""
    reservations: int


def kind_of(content: Content) -> str:
    return type(content).__name__.lower()


def project_of(content: Content) -> Project:
    return content.prompt.project if isinstance(content, Response) else content.project


def tasks_of(content: Content) -> QuerySet[Task]:
    """Return the tasks that contain the content."""
    if isinstance(content, Task):
        return Task.objects.filter(pk=content.pk)
    if isinstance(content, Prompt):
        return Task.objects.filter(prompt=content)
    return Task.objects.filter(places__response=content)


def effect_of(content: Content) -> Effect:
    """Return the effect of withdrawing the content, for the confirmation page. Costs four queries."""
    tasks = tasks_of(content).filter(inactive=False)
    smaller = 0
    if isinstance(content, Response):
        remaining = Count("places", filter=Q(places__withdrawn=False))
        sizes = Task.objects.filter(pk__in=tasks.values("pk")).annotate(left=remaining)
        smaller = sizes.exclude(kind=Task.Kind.GOLD).filter(left__gt=2).count()
    leases = Slot.objects.filter(task__in=tasks, leased_until__isnull=False)
    rankings = Ranking.objects.filter(task__in=tasks, superseded_at=None)
    return Effect(tasks.count() - smaller, smaller, rankings.count(), leases.count())


@transaction.atomic
def withdraw(*, content: Content, by: User | None, reason: str = "") -> bool:
    """Withdraw the content. Return False if it was already withdrawn."""
    rows = type(content)._default_manager.filter(pk=content.pk)
    count = _withdraw(rows, project_of(content), tasks_of(content), by, reason)
    if count is None:
        return False
    details = {kind_of(content): content.pk, "tasks": count, "reason": storable(reason)}
    audit(by, f"{kind_of(content)} withdrawn", project_of(content), **details)
    return True


@transaction.atomic
def restore(*, content: Content, by: User | None) -> bool:
    """Restore the content. Return False if it was not withdrawn, or was erased.

    Its tasks return to the queue, except those that have other withdrawn content.
    """
    project = project_of(content)
    withdrawals.lock_additions(project.pk)
    tasks = _locked(tasks_of(content))
    rows: Any = type(content)._default_manager.filter(pk=content.pk, withdrawn_at__isnull=False)
    if not isinstance(content, Task):
        rows = rows.filter(erased_at=None)
    if not rows.update(withdrawn_at=None, withdrawn_by=None, withdrawn_reason=""):
        return False
    changed = withdrawals.refresh(tasks)
    kind = kind_of(content)
    audit(by, f"{kind} restored", project, **{kind: content.pk}, tasks=len(changed))
    return True


def _withdraw(
    rows: Any, project: Project, tasks: QuerySet[Task], by: User | None, reason: str
) -> int | None:
    """Withdraw rows; return how many tasks became inactive, or None if all were already withdrawn."""
    withdrawals.lock_additions(project.pk)
    ids = _locked(tasks)
    values = {
        "withdrawn_at": timezone.now(),
        "withdrawn_by": by,
        "withdrawn_reason": storable(reason)[:MAX_REASON_LENGTH],
    }
    if rows.model is Task:
        in_use = rows.filter(withdrawn_at=None)
        before = in_use.filter(inactive=False).count()
        if not in_use.update(**values, inactive=True):
            return None
        withdrawals.refresh(ids)
        return before
    if not rows.filter(withdrawn_at=None).update(**values):
        return None
    return len(withdrawals.refresh(ids))


def _locked(tasks: QuerySet[Task]) -> list[int]:
    ids = list(tasks.values_list("pk", flat=True))
    withdrawals.lock(ids)
    return ids

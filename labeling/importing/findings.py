"""Problems that the scan finds in responses, and leads' decisions about them.

A new task that contains a response with a finding is held: reviewers do not get it. A lead can dismiss
the finding as a false alarm, which releases the task, or drop the response, which replaces the task with
one that has only the other responses. A task in which only one response would remain stays held. Findings
are never deleted, so a decision about a response also applies to later tasks with the same response.

A task that is imported with rankings is not held, because people have already seen its responses.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from accounts.models import User, audit
from database.lookups import AnyOf
from labeling.importing.scan import scan
from labeling.models import Finding, Project, Response, Task, TaskResponse
from labeling.queue import tasks as queue
from labeling.queue.tasks import NewTask

RESPONSE_BATCH_SIZE = 2000
MAX_COUNT = 1000
PAGE_SIZE = 25


@transaction.atomic
def add_tasks(
    *,
    project: Project,
    tasks: Sequence[NewTask],
    ranked: Iterable[bool] = (),
    kinds: Collection[str] = tuple(Finding.Kind.values),
) -> list[tuple[int, bool]]:
    """Scan the tasks' responses, and add the tasks with queue.add_tasks. Return what it returns.

    `ranked` says for each task whether it already has rankings; by default, none has. `kinds` are the
    kinds of findings for which a task is held. Raises ValueError for a task that cannot be ranked.
    """
    suspects = record({pk for task in tasks for pk in task.response_ids}, kinds)
    come_ranked = [*ranked] or [False] * len(tasks)
    held = [
        replace(task, held=True)
        if not is_ranked and suspects.intersection(task.response_ids)
        else task
        for task, is_ranked in zip(tasks, come_ranked, strict=True)
    ]
    return queue.add_tasks(project=project, tasks=held)


def record(response_ids: Iterable[int], kinds: Collection[str]) -> set[int]:
    """Scan responses and store the findings. Return the ids of responses that reviewers must not see.

    Reads 2,000 responses at a time.
    """
    ids = sorted(response_ids)
    suspects: set[int] = set()
    for start in range(0, len(ids), RESPONSE_BATCH_SIZE):
        batch = ids[start : start + RESPONSE_BATCH_SIZE]
        rows = Response.objects.filter(AnyOf("pk", batch)).values_list(
            "pk", "text", "model_name", "sampling"
        )
        new = [
            Finding(response_id=pk, kind=match.kind, excerpt=match.excerpt)
            for pk, text, model, sampling in rows
            for match in scan(text, model=model, sampling=sampling)
        ]
        Finding.objects.bulk_create(new, ignore_conflicts=True)
        suspects |= set(
            Finding.objects.filter(AnyOf("response", batch), kind__in=kinds)
            .filter(Q(dismissed_at=None) | Q(dropped=True))
            .values_list("response_id", flat=True)
        )
    return suspects


# --- lists ---------------------------------------------------------------------------------------


def waiting(project: Project) -> QuerySet[Task]:
    """Return the held tasks that have a finding about which no lead has decided."""
    open_ones = Finding.objects.filter(response__places__task=OuterRef("pk"), dismissed_at=None)
    return Task.objects.filter(Exists(open_ones), project=project, held=True, inactive=False)


@dataclass(frozen=True)
class Counts:
    """Numbers for the overview. Counting stops at MAX_COUNT, to limit the time it takes."""

    held: int
    identity: int
    truncated: int

    @property
    def capped(self) -> bool:
        return self.held >= MAX_COUNT


def counts(project: Project) -> Counts:
    """Return the number of held tasks and of their open findings by kind. Costs two queries."""
    held = list(waiting(project).order_by("pk").values_list("pk", flat=True)[:MAX_COUNT])
    by_kind = dict(
        Finding.objects.filter(dismissed_at=None, response__places__task__in=held)
        .values("kind")
        .annotate(count=Count("pk", distinct=True))
        .values_list("kind", "count")
    )
    return Counts(
        len(held), by_kind.get(Finding.Kind.IDENTITY, 0), by_kind.get(Finding.Kind.TRUNCATED, 0)
    )


def page_of(project: Project, *, after: int | None = None) -> tuple[list[Task], int | None]:
    """Return a page of held tasks, oldest first, and the `after` of the next page, or None.

    Costs four queries.
    """
    tasks = waiting(project).select_related("prompt").order_by("pk")
    if after is not None:
        tasks = tasks.filter(pk__gt=after)
    rows = list(
        tasks.prefetch_related("places__response__findings", "places__response")[: PAGE_SIZE + 1]
    )
    return rows[:PAGE_SIZE], rows[PAGE_SIZE - 1].pk if len(rows) > PAGE_SIZE else None


# --- decisions -----------------------------------------------------------------------------------


@transaction.atomic
def dismiss(*, project: Project, response_id: int, by: User) -> int:
    """Close a response's findings as false alarms, and release the tasks that have no other open finding.

    Return the number of released tasks.
    """
    if not _close(project, response_id, by, dropped=False):
        return 0
    audit(by, "findings dismissed", project, response=response_id)
    return _release(project, _held_with(project, response_id))


@transaction.atomic
def release(*, project: Project, task_id: int, by: User) -> bool:
    """Dismiss all findings of a task as false alarms. Return False if the task was not held."""
    task = waiting(project).filter(pk=task_id).first()
    if task is None:
        return False
    places = TaskResponse.objects.filter(task=task, response__findings__dismissed_at=None)
    for response_id in set(places.values_list("response_id", flat=True)):
        dismiss(project=project, response_id=response_id, by=by)
    return not Task.objects.get(pk=task_id).held


@dataclass(frozen=True)
class DropResult:
    replaced: int
    """Number of tasks that were replaced with tasks of the other responses."""
    ended: int
    """Number of tasks that stay held, because they have only one other response."""


@transaction.atomic
def drop(*, project: Project, response_id: int, by: User) -> DropResult:
    """Replace every held task that contains the response with a task without it.

    The response itself is kept. The new task is also held if another of its responses has an open
    finding.
    """
    if not _close(project, response_id, by, dropped=True):
        return DropResult(0, 0)
    held = _held_with(project, response_id)
    smaller = [new for task in held if (new := _without(task, response_id))]
    add_tasks(project=project, tasks=smaller)
    audit(by, "response dropped", project, response=response_id, tasks=len(held))
    return DropResult(len(smaller), len(held) - len(smaller))


def _close(project: Project, response_id: int, by: User, *, dropped: bool) -> int:
    open_findings = Finding.objects.filter(
        response=response_id, response__prompt__project=project, dismissed_at=None
    )
    return open_findings.update(dismissed_at=timezone.now(), dismissed_by=by, dropped=dropped)


def _held_with(project: Project, response_id: int) -> list[Task]:
    """Lock and return the held tasks with the response, so that concurrent decisions are serialised."""
    tasks = Task.objects.filter(project=project, held=True, places__response=response_id)
    return list(tasks.order_by("pk").select_for_update(of=("self",)))


def _release(project: Project, tasks: list[Task]) -> int:
    """Release those tasks that have no open finding and no dropped response; return their number."""
    blocking = Finding.objects.filter(
        Q(dismissed_at=None) | Q(dropped=True), response__places__task=OuterRef("pk")
    )
    ready = Task.objects.filter(~Exists(blocking), pk__in=[task.pk for task in tasks])
    return queue.release_held(project=project, task_ids=list(ready.values_list("pk", flat=True)))


def _without(task: Task, response_id: int) -> NewTask | None:
    """Return a task with the other responses, or None if fewer than two would be left."""
    places = TaskResponse.objects.filter(task=task, withdrawn=False).order_by("position")
    gone = set(
        Finding.objects.filter(response__places__task=task, dropped=True).values_list(
            "response_id", flat=True
        )
    )
    others = [pk for pk in places.values_list("response_id", flat=True) if pk not in gone]
    if len(others) < 2:
        return None
    fields: dict[str, Any] = {
        "kind": task.kind,
        "rankings_wanted": task.rankings_wanted,
        "file_import_id": task.file_import_id,
        "external_id": task.external_id,
    }
    return NewTask(task.prompt_id, others, task.priority, **fields)

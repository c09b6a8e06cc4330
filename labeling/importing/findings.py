"""What the scan found, and what a lead makes of it.

A new task that holds a response with a finding is held: nobody gets it. A lead dismisses the finding
(a false alarm), and the task is given out, or drops the response, and a task of the others takes its
place; one that would be left with a single response stays held for good. A finding is never deleted,
so what was decided about a response counts for every later task of it too.

A task that comes with rankings has been seen by people elsewhere, and is not held.
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

RESPONSES_AT_ONCE = 2000
COUNTED_AT_MOST = 1000
PAGE = 25


@transaction.atomic
def add_tasks(
    *,
    project: Project,
    tasks: Sequence[NewTask],
    ranked: Iterable[bool] = (),
    kinds: Collection[str] = tuple(Finding.Kind.values),
) -> list[tuple[int, bool]]:
    """queue.add_tasks, after a scan of the responses; what came in here is all that was scanned.

    `ranked` says of each task whether it comes with rankings, which is no by default; `kinds` which
    findings hold a task. Reads every response once, 2,000 at a time. Raises ValueError.
    """
    suspects = record({pk for task in tasks for pk in task.response_ids}, kinds)
    come_ranked = [*ranked] or [False] * len(tasks)
    held = [
        replace(task, held=True) if not seen and suspects.intersection(task.response_ids) else task
        for task, seen in zip(tasks, come_ranked, strict=True)
    ]
    return queue.add_tasks(project=project, tasks=held)


def record(response_ids: Iterable[int], kinds: Collection[str]) -> set[int]:
    """Scan them, keep what is found, and say which of them no reviewer should be given."""
    ids = sorted(response_ids)
    suspects: set[int] = set()
    for start in range(0, len(ids), RESPONSES_AT_ONCE):
        batch = ids[start : start + RESPONSES_AT_ONCE]
        rows = Response.objects.filter(AnyOf("pk", batch)).values_list(
            "pk", "text", "model_name", "sampling"
        )
        found = [
            Finding(response_id=pk, kind=one.kind, excerpt=one.excerpt)
            for pk, text, model, sampling in rows
            for one in scan(text, model=model, sampling=sampling)
        ]
        Finding.objects.bulk_create(found, ignore_conflicts=True)
        suspects |= set(
            Finding.objects.filter(AnyOf("response", batch), kind__in=kinds)
            .filter(Q(dismissed_at=None) | Q(dropped=True))
            .values_list("response_id", flat=True)
        )
    return suspects


# --- what a lead sees ----------------------------------------------------------------------------


def waiting(project: Project) -> QuerySet[Task]:
    """Held tasks with a finding that nobody has looked at."""
    open_ones = Finding.objects.filter(response__places__task=OuterRef("pk"), dismissed_at=None)
    return Task.objects.filter(Exists(open_ones), project=project, held=True, out_of_use=False)


@dataclass(frozen=True)
class Counts:
    """Up to COUNTED_AT_MOST of each, so that the count costs the same however many there are."""

    held: int
    identity: int
    truncated: int

    @property
    def capped(self) -> bool:
        return self.held >= COUNTED_AT_MOST


def counts(project: Project) -> Counts:
    """Two queries."""
    held = list(waiting(project).order_by("pk").values_list("pk", flat=True)[:COUNTED_AT_MOST])
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
    """Held tasks, oldest first, and after which number the next page begins. Four queries."""
    tasks = waiting(project).select_related("prompt").order_by("pk")
    if after is not None:
        tasks = tasks.filter(pk__gt=after)
    shown = list(
        tasks.prefetch_related("places__response__findings", "places__response")[: PAGE + 1]
    )
    return shown[:PAGE], shown[PAGE - 1].pk if len(shown) > PAGE else None


# --- what a lead decides -------------------------------------------------------------------------


@transaction.atomic
def dismiss(*, project: Project, response_id: int, by: User) -> int:
    """A false alarm: close the response's findings and give out what waited only for it.

    Returns how many tasks reviewers can get now.
    """
    if not _close(project, response_id, by, dropped=False):
        return 0
    audit(by, "findings dismissed", project, response=response_id)
    return _release(project, _held_with(project, response_id))


@transaction.atomic
def release(*, project: Project, task_id: int, by: User) -> bool:
    """All the findings of one task are false alarms; False when it was not waiting."""
    task = waiting(project).filter(pk=task_id).first()
    if task is None:
        return False
    places = TaskResponse.objects.filter(task=task, response__findings__dismissed_at=None)
    for response_id in set(places.values_list("response_id", flat=True)):
        dismiss(project=project, response_id=response_id, by=by)
    return not Task.objects.get(pk=task_id).held


@dataclass(frozen=True)
class Dropped:
    replaced: int
    """Tasks that go on with the other responses."""
    ended: int
    """Tasks that had only one other response, and are never given out."""


@transaction.atomic
def drop(*, project: Project, response_id: int, by: User) -> Dropped:
    """Take the response out of every held task it is in. The response itself stays.

    The new task waits in turn when another of its responses has an open finding.
    """
    if not _close(project, response_id, by, dropped=True):
        return Dropped(0, 0)
    held = _held_with(project, response_id)
    smaller = [new for task in held if (new := _without(task, response_id))]
    add_tasks(project=project, tasks=smaller)
    audit(by, "response dropped", project, response=response_id, tasks=len(held))
    return Dropped(len(smaller), len(held) - len(smaller))


def _close(project: Project, response_id: int, by: User, *, dropped: bool) -> int:
    found = Finding.objects.filter(
        response=response_id, response__prompt__project=project, dismissed_at=None
    )
    return found.update(dismissed_at=timezone.now(), dismissed_by=by, dropped=dropped)


def _held_with(project: Project, response_id: int) -> list[Task]:
    """Locked, so that two leads decide one after the other."""
    tasks = Task.objects.filter(project=project, held=True, places__response=response_id)
    return list(tasks.order_by("pk").select_for_update(of=("self",)))


def _release(project: Project, tasks: list[Task]) -> int:
    """Those in which nothing is left that a reviewer should not get."""
    kept = Finding.objects.filter(
        Q(dismissed_at=None) | Q(dropped=True), response__places__task=OuterRef("pk")
    )
    ready = Task.objects.filter(~Exists(kept), pk__in=[task.pk for task in tasks])
    return queue.release_held(project=project, task_ids=list(ready.values_list("pk", flat=True)))


def _without(task: Task, response_id: int) -> NewTask | None:
    """The same task of the other responses; None when a single one would be left."""
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

"""The filters for the list of tasks."""

from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from labeling.disputes.adjudication import open_disputes
from labeling.models import Project, Skip, Slot, Task, TaskResponse

FILTERS = {
    "": "All",
    "open": "Open",
    "disputed": "Disputed",
    "skipped": "Skipped",
    "held": "Held",
    "withdrawn": "Withdrawn",
}


def filtered(project: Project, name: str) -> QuerySet[Task]:
    """Return the project's tasks that match a filter, or all tasks for an unknown name.

    - open: the task still needs a ranking.
    - disputed: the task is an open dispute.
    - skipped: a reviewer skipped the task.
    - held: a lead must check findings first.
    - withdrawn: the task is inactive, or one of its responses is withdrawn.
    """
    tasks = Task.objects.filter(project=project)
    in_use = tasks.filter(inactive=False)
    if name == "open":
        open_slots = Slot.objects.filter(task=OuterRef("pk"), ranking=None)
        return in_use.filter(Exists(open_slots)).exclude(kind=Task.Kind.GOLD)
    if name == "disputed":
        return in_use.filter(pk__in=[dispute.task_id for dispute in open_disputes(project)])
    if name == "skipped":
        return in_use.filter(Exists(Skip.objects.filter(task=OuterRef("pk"))))
    if name == "held":
        return in_use.filter(held=True)
    if name == "withdrawn":
        return tasks.filter(Q(inactive=True) | Q(pk__in=_smaller(project)))
    return tasks


def _smaller(project: Project) -> Any:
    """Return the ids of tasks with a withdrawn response, using the index of withdrawn responses."""
    places = TaskResponse.objects.filter(
        withdrawn=True, response__withdrawn_at__isnull=False, response__prompt__project=project
    )
    return places.values("task")

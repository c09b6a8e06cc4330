"""The filters of the list of tasks."""

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
    """The project's tasks that a filter lets through; all of them for an unknown name.

    open: still wanting a ranking. disputed: an open dispute, as in the list of disputes. skipped: by someone. held: until a lead has checked what the
    scan found. withdrawn: out of use, or without one of its responses.
    """
    tasks = Task.objects.filter(project=project)
    in_use = tasks.filter(out_of_use=False)
    if name == "open":
        wanted = Slot.objects.filter(task=OuterRef("pk"), ranking=None)
        return in_use.filter(Exists(wanted)).exclude(kind=Task.Kind.GOLD)
    if name == "disputed":
        return in_use.filter(pk__in=[dispute.task_id for dispute in open_disputes(project)])
    if name == "skipped":
        return in_use.filter(Exists(Skip.objects.filter(task=OuterRef("pk"))))
    if name == "held":
        return in_use.filter(held=True)
    if name == "withdrawn":
        return tasks.filter(Q(out_of_use=True) | Q(pk__in=_smaller(project)))
    return tasks


def _smaller(project: Project) -> Any:
    """Tasks with a withdrawn response, through the index of those."""
    places = TaskResponse.objects.filter(
        withdrawn=True, response__withdrawn_at__isnull=False, response__prompt__project=project
    )
    return places.values("task")

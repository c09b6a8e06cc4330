"""Announce to webhooks that a project is finished: every task has all its rankings."""

from django.db import transaction
from django.utils import timezone

from labeling.models import Project, Slot
from webhooks.events import announce
from webhooks.models import Endpoint, Event


def announce_finished() -> int:
    """Announce the projects that were finished since the last call, and return their number.

    A project can be finished again, once it had open tasks in between. Costs one query if nobody
    listens, otherwise four per project.
    """
    listening = Endpoint.objects.filter(active=True, events__contains=[Event.PROJECT_FINISHED])
    projects = Project.objects.filter(pk__in=listening.values("project"), archived_at=None)
    return sum(_announce_if_new(project) for project in projects)


def is_finished(project: Project) -> bool:
    """Return whether the project has rankings, and every task has all it needs. Costs three queries."""
    slots = Slot.objects.filter(project=project)
    if slots.filter(leased_until__isnull=False).exists():
        return False
    if slots.filter(reviewer=None, task__inactive=False).exists():
        return False
    return slots.filter(ranking__isnull=False).exists()


@transaction.atomic
def _announce_if_new(project: Project) -> bool:
    finished = is_finished(project)
    changed = Endpoint.objects.filter(project=project).exclude(finished=finished)
    if not changed.update(finished=finished) or not finished:
        return False
    now = timezone.now()
    data = {"project": project.slug}
    announce(project=project.pk, event=Event.PROJECT_FINISHED, subject=now.isoformat(), data=data)
    return True

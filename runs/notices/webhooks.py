"""Announce ended runs to the webhooks of their projects."""

from datetime import timedelta

from django.db.models import Min
from django.db.models.functions import Now

from runs.models import ENDED, Run
from runs.notices.message import facts_of
from webhooks.events import announce
from webhooks.models import Delivery, Endpoint, Event

NEW = timedelta(hours=6)
"""Runs that ended earlier are not announced, for example if no worker ran for long."""
AT_ONCE = 100


def announce_ended() -> int:
    """Announce the runs that have ended since an endpoint of their project exists; return their number.

    A run that ends again is announced again. Costs one query if nobody listens, otherwise three, and
    two per run.
    """
    listening = Endpoint.objects.filter(active=True, events__contains=[Event.RUN_ENDED])
    since = dict(
        listening.order_by()
        .values("project")
        .annotate(first=Min("created_at"))
        .values_list("project", "first")
    )
    if not since:
        return 0
    known = Delivery.objects.filter(event=Event.RUN_ENDED, created_at__gt=Now() - 2 * NEW)
    announced = set(known.values_list("subject", flat=True))
    runs = Run.objects.filter(project__in=since, state__in=ENDED, finished_at__gt=Now() - NEW)
    ended = [
        run
        for run in runs.select_related("project", "created_by").order_by("-finished_at")[:AT_ONCE]
        if _subject(run) not in announced
        and run.project_id is not None
        and run.finished_at is not None
        and run.finished_at >= since[run.project_id]
    ]
    for run in ended:
        announce(
            project=run.project_id,
            event=Event.RUN_ENDED,
            subject=_subject(run),
            data=facts_of(run),
        )
    return len(ended)


def _subject(run: Run) -> str:
    return f"{run.pk}, {run.finished_at.isoformat() if run.finished_at else ''}"

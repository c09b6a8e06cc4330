"""Messages that tell workers that a run is queued.

The row is the truth: if a message is lost, the reaper sends another one.
"""

import logging
from datetime import timedelta

from celery import current_app
from django.conf import settings
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from kombu.exceptions import OperationalError as BrokerError

from runs.models import Run, State

logger = logging.getLogger("tiebreak.runs")

QUEUE = "gpu"
OVERDUE_AT_ONCE = 100


def notify_worker(run_id: int) -> bool:
    """Send the run's id to a worker. If the broker is unavailable, log a warning and return False."""
    try:
        current_app.send_task("runs.tasks.execute", args=[run_id], queue=QUEUE, retry=False)
    except (BrokerError, OSError) as error:
        logger.warning("Run %s waits: the broker does not answer (%s).", run_id, error)
        return False
    Run.objects.filter(pk=run_id, state=State.QUEUED).update(message_sent_at=Now())
    return True


def notify_submitter() -> bool:
    """Ask a worker of the default queue to submit queued runs to the cluster.

    If the broker is unavailable, log a warning and return False: the reaper submits the runs later.
    """
    try:
        current_app.send_task("runs.tasks.submit_jobs", queue="default", retry=False)
    except (BrokerError, OSError) as error:
        logger.warning("Queued runs wait: the broker does not answer (%s).", error)
        return False
    return True


def notify_next() -> None:
    """Send a message for the first run in the queue, even if it has had one: a worker is free for it now.

    Nothing is sent while earlier messages are pending.
    """
    _notify(Run.objects.filter(state=State.QUEUED), limit=1)


def notify_overdue() -> None:
    """Send a message for each of the first queued runs that have had none recently.

    Nothing is sent while earlier messages are pending.
    """
    recently = Now() - timedelta(seconds=settings.RUN_LEASE_SECONDS)
    overdue = Q(message_sent_at=None) | Q(message_sent_at__lt=recently)
    _notify(Run.objects.filter(overdue, state=State.QUEUED), limit=OVERDUE_AT_ONCE)


def _notify(waiting: QuerySet[Run], *, limit: int) -> None:
    ids = list(waiting.order_by("-priority", "id").values_list("id", flat=True)[:limit])
    if ids and not pending_messages():
        for run_id in ids:
            if not notify_worker(run_id):
                return


def pending_messages() -> int:
    """Return the number of messages in the queue, or 0 if the broker is unavailable."""
    broker = current_app.connection_for_write()
    with broker:
        try:
            return broker.default_channel.queue_declare(queue=QUEUE, passive=True).message_count
        except (*broker.channel_errors, *broker.connection_errors, BrokerError):
            return 0

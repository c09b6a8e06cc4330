"""The sending of notices. The rows decide what to send, and no run ever waits for it.

A periodic task calls `send_due`. It creates a row for each run that has ended, after the commit of that
end, and sends what is due. A notice that cannot be sent is retried with growing waits for a day. If a
worker dies while it sends, the notice is sent again after its lease, so a recipient may get it twice.
"""

import logging
from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.db.models import F, Q
from django.db.models.functions import Now

from database import outbox
from runs.models import ENDED, Notice, Run, State
from runs.notices.channels import CHANNELS, NotSent

logger = logging.getLogger("tiebreak.runs")

NEW = timedelta(hours=6)
"""Runs that ended earlier get no notice, for example those from before notices were configured."""
RETRIED = timedelta(days=1)
AT_ONCE = 100


def send_due() -> list[Notice]:
    """Send the notices that are due, and return them after the attempt."""
    channels = [name for name, channel in CHANNELS.items() if channel.is_configured()]
    if not channels:
        return []
    create(channels)
    free = Q(leased_until=None) | Q(leased_until__lte=Now())
    waiting = Notice.objects.filter(
        outbox.due(), free, sent_at=None, channel__in=channels, ended_at__gt=Now() - RETRIED
    )
    notices = []
    for pk in list(waiting.order_by("pk").values_list("pk", flat=True)[:AT_ONCE]):
        if outbox.lease(Notice.objects.filter(free, pk=pk, sent_at=None)):
            rows = Notice.objects.select_related("run__created_by", "run__project")
            notices.append(attempt(rows.get(pk=pk)))
    return notices


def create(channels: Iterable[str]) -> None:
    """Create the rows for the runs that have ended. A run that ends again gets another notice."""
    states = [State.FAILED] if settings.NOTIFY == "failed" else list(ENDED)
    ended = Run.objects.filter(state__in=states, finished_at__gt=Now() - NEW)
    for channel in channels:
        noticed = Q(notices__channel=channel, notices__ended_at=F("finished_at"))
        new = ended.exclude(pk__in=ended.filter(noticed).values("pk")).order_by("pk")
        Notice.objects.bulk_create(
            [
                Notice(run_id=pk, channel=channel, ended_at=at)
                for pk, at in new.values_list("pk", "finished_at")[:AT_ONCE]
                if at is not None  # the filter above excludes this
            ],
            ignore_conflicts=True,
        )


def attempt(notice: Notice) -> Notice:
    """Send a leased notice once, and store the outcome unless another worker has taken over."""
    own = Notice.objects.filter(pk=notice.pk, attempts=notice.attempts)
    try:
        CHANNELS[Notice.Channel(notice.channel)].send(notice)
    except NotSent as problem:
        outbox.wait_again(own, notice.attempts, problem)
        logger.warning("%s failed (attempt %s): %s", notice, notice.attempts, problem)
    else:
        outbox.settle(own, sent_at=Now())
    notice.refresh_from_db(fields=["sent_at", "error", "next_attempt_at"])
    return notice

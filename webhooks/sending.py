"""The sending of webhooks. The rows decide what to send, and no page ever waits for it.

A periodic task calls `send_due`. A delivery that fails is retried with growing waits for a day. If a
worker dies while it sends, the delivery is sent again after its lease, so a receiver may get it twice.
Receivers recognise it by the header webhook-id.
"""

import json
import logging
import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, Q, QuerySet
from django.db.models.functions import Now

from database import outbox
from webhooks import http
from webhooks.http import NotSent
from webhooks.models import KEPT, Delivery, Endpoint

logger = logging.getLogger("tiebreak.webhooks")

RETRIED = timedelta(days=1)
AT_ONCE = 200
SECONDS = 20
"""How long one call sends. An endpoint that fails is left out until the next call."""
GONE = 410
MOST_FAILING = 5
"""An endpoint with this many failed deliveries gets no others until one of them is due again."""


def send_due() -> int:
    """Send the deliveries that are due, and return the number of attempts."""
    free = Q(leased_until=None) | Q(leased_until__lte=Now())
    waiting = Delivery.objects.filter(
        outbox.due(), free, sent_at=None, given_up_at=None, endpoint__active=True
    )
    waiting = waiting.exclude(endpoint__in=_broken())
    end, failing, attempts = time.monotonic() + SECONDS, set[int](), 0
    for pk, endpoint in list(waiting.order_by("pk").values_list("pk", "endpoint_id")[:AT_ONCE]):
        if endpoint in failing or time.monotonic() > end:
            continue
        rows = Delivery.objects.filter(free, pk=pk, sent_at=None, given_up_at=None)
        if outbox.lease(rows):
            attempts += 1
            if not attempt(Delivery.objects.select_related("endpoint").get(pk=pk)):
                failing.add(endpoint)
    return attempts


def _broken() -> QuerySet[Any]:
    """Return the ids of the endpoints that fail, so that a server that is down costs few attempts."""
    failed = Delivery.objects.filter(sent_at=None, given_up_at=None, next_attempt_at__gt=Now())
    counted = failed.order_by().values("endpoint").annotate(count=Count("pk"))
    return counted.filter(count__gte=MOST_FAILING).values("endpoint")


def attempt(delivery: Delivery) -> bool:
    """Send a leased delivery once; store the outcome unless another worker has taken over.

    Return whether it was delivered.
    """
    own = Delivery.objects.filter(pk=delivery.pk, attempts=delivery.attempts)
    status = None
    try:
        status = _send(delivery)
        if not 200 <= status < 300:
            raise NotSent(f"The endpoint answered with status {status}.")
    except NotSent as problem:
        own.filter(created_at__lt=Now() - RETRIED).update(given_up_at=Now())
        own.update(status=status)
        outbox.wait_again(own, delivery.attempts, problem)
        if status == GONE:
            Endpoint.objects.filter(pk=delivery.endpoint_id).update(active=False)
        logger.warning(
            "Delivery %s failed (attempt %s): %s", delivery.pk, delivery.attempts, problem
        )
        return False
    outbox.settle(own, sent_at=Now(), status=status)
    return True


def _send(delivery: Delivery) -> int:
    content = {
        "type": delivery.event,
        "timestamp": delivery.created_at.isoformat(),
        "data": delivery.data,
    }
    return http.send(
        delivery.endpoint.url,
        json.dumps(content).encode(),
        identifier=f"msg_{delivery.key.hex}",
        secret=delivery.endpoint.secret,
        private=settings.WEBHOOK_PRIVATE,
    )


def send_again(delivery: Delivery) -> bool:
    """Let a delivery be sent again soon; return False if it is being sent now."""
    free = Q(leased_until=None) | Q(leased_until__lte=Now())
    return bool(
        Delivery.objects.filter(free, pk=delivery.pk).update(
            attempts=0, sent_at=None, given_up_at=None, next_attempt_at=None, error="", status=None
        )
    )


def forget_old() -> int:
    """Delete the deliveries from the log that are older than 30 days, and return their number."""
    return Delivery.objects.filter(created_at__lt=Now() - KEPT).delete()[0]

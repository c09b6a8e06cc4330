"""Rows of an outbox: messages to other services, which are sent until one attempt succeeds.

A model of such rows has the fields `attempts`, `leased_until`, `next_attempt_at` and `error`. A worker
leases a row before it sends. If it dies, another one sends again after the lease, so a message may arrive
twice.
"""

from datetime import timedelta
from typing import Any

from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

LEASE = timedelta(minutes=5)
"""The time after which a message is sent again if its worker has died."""
FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=1)
MAX_ERROR = 500


def due() -> Q:
    """Return the condition that no attempt has failed, or that the wait after the last one is over."""
    return Q(next_attempt_at=None) | Q(next_attempt_at__lte=Now())


def lease(row: QuerySet[Any]) -> bool:
    """Lease the row for an attempt, and return whether the query still found it."""
    return row.update(leased_until=Now() + LEASE, attempts=F("attempts") + 1) == 1


def wait_again(row: QuerySet[Any], attempts: int, problem: Exception) -> None:
    """Store why the attempt failed, and when the next one is due. The wait doubles with each attempt."""
    wait = min(FIRST_WAIT * 2 ** min(attempts - 1, 10), LONGEST_WAIT)
    row.update(error=str(problem)[:MAX_ERROR], leased_until=None, next_attempt_at=Now() + wait)


def settle(row: QuerySet[Any], **outcome: Any) -> None:
    """Store the outcome of an attempt that succeeded."""
    row.update(error="", leased_until=None, next_attempt_at=None, **outcome)

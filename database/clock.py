"""The database's clock, for times that several machines compare: leases, revisions, undo windows.

Web servers' own clocks may be wrong by minutes. The difference is measured once a minute, so that
asking for the time costs no query.
"""

import threading
import time
from datetime import datetime, timedelta

from django.db import connection
from django.utils import timezone

MEASURED_EVERY = 60.0

_lock = threading.Lock()
_ahead = timedelta()
_measured_at = -MEASURED_EVERY


def now() -> datetime:
    """Return the time by the database's clock. Cost: a query once a minute and process."""
    global _ahead, _measured_at
    if time.monotonic() - _measured_at >= MEASURED_EVERY and _can_ask():
        with _lock:
            _ahead, _measured_at = _difference(), time.monotonic()
    return timezone.now() + _ahead


def _can_ask() -> bool:
    """A transaction that has failed takes no query; the last difference will do."""
    return not connection.needs_rollback


def _difference() -> timedelta:
    connection.ensure_connection()
    assert connection.connection is not None
    before = timezone.now()
    # Past Django's cursor: the pinned counts of queries are those of the page itself.
    [there] = connection.connection.execute("SELECT clock_timestamp()").fetchone()
    after = timezone.now()
    return there - (before + (after - before) / 2)

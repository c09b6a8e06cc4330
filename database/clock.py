"""The database's clock, for times that several machines compare, such as leases and undo windows.

The clocks of web servers may be minutes off. The difference is measured once a minute, so that most
calls of `now` cost no query.
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
    """Return the database's time. Costs one query per minute in each process."""
    global _ahead, _measured_at
    if time.monotonic() - _measured_at >= MEASURED_EVERY and _can_ask():
        with _lock:
            _ahead, _measured_at = _difference(), time.monotonic()
    return timezone.now() + _ahead


def _can_ask() -> bool:
    """Return whether the connection accepts queries, which it does not after an error in a transaction."""
    return not connection.needs_rollback


def _difference() -> timedelta:
    connection.ensure_connection()
    assert connection.connection is not None
    before = timezone.now()
    # This bypasses Django's cursor, which would add the query to the pages' pinned query counts.
    [database_time] = connection.connection.execute("SELECT clock_timestamp()").fetchone()
    after = timezone.now()
    return database_time - (before + (after - before) / 2)

"""The sessions of each user, which they can see and end on their profile page.

A session of Django does not say in a column whose it is. Each save of a signed-in session therefore
records it in a second table, from which the database deletes it together with the session.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.models import Session
from django.db import connection
from django.http import HttpRequest
from django.utils import timezone

from accounts.models import User, UserSession
from accounts.parameters import number
from accounts.sign_in.throttle import client_address

ADDRESS, BROWSER = "address", "browser"
"""Names in a session's data: where it began, and in which browser."""

# Other browsers also contain the names further down, such as "Chrome" and "Safari".
BROWSERS = (
    ("Edg", "Edge"), ("OPR", "Opera"), ("SamsungBrowser", "Samsung Internet"), ("Firefox", "Firefox"),
    ("FxiOS", "Firefox"), ("CriOS", "Chrome"), ("Chrome", "Chrome"), ("Safari", "Safari"),
)  # fmt: skip
SYSTEMS = (
    ("iPhone", "iPhone"), ("iPad", "iPad"), ("Android", "Android"), ("Windows", "Windows"),
    ("CrOS", "ChromeOS"), ("Macintosh", "macOS"), ("Linux", "Linux"),
)  # fmt: skip
MAX_NAME = 60


@dataclass(frozen=True)
class Listed:
    """A session as the profile page lists it. `active_at` is accurate to a few minutes."""

    id: int
    signed_in_at: datetime
    active_at: datetime
    address: str
    browser: str
    is_current: bool


def connect() -> None:
    user_logged_in.connect(describe, dispatch_uid="sessions")


def describe(sender: Any, request: HttpRequest | None = None, **signal: Any) -> None:
    """Store in a new session where it began. Every way to sign in sends the signal."""
    if request is not None and hasattr(request, "session"):
        request.session[ADDRESS] = client_address(request)[:45].replace("\x00", "")
        request.session[BROWSER] = browser_name(request.headers.get("User-Agent", ""))


def browser_name(agent: str) -> str:
    """Return a name such as "Firefox, Linux" for a User-Agent header, or its first word, or ""."""
    browser = next((name for mark, name in BROWSERS if f"{mark}/" in agent), "")
    system = next((name for mark, name in SYSTEMS if mark in agent), "")
    if not browser:
        word = re.match(r"[A-Za-z][\w.-]*", agent)
        browser = word[0] if word else ""
    return ", ".join(filter(None, [browser, system]))[:MAX_NAME]


# The user or the session may have been deleted in the meantime.
_RECORD = """
INSERT INTO accounts_usersession (session_key, user_id, signed_in_at, address, browser)
SELECT session.session_key, account.id, %s, %s, %s
FROM accounts_user account, django_session session
WHERE account.id = %s AND session.session_key = %s
ON CONFLICT (session_key) DO NOTHING
"""


def record(session_key: str | None, data: Any, started: int | None) -> None:
    """Record a signed-in session, unless it is already recorded. Costs one query."""
    user = number(str(data.get(SESSION_KEY, "")))
    if not session_key or user is None:
        return
    signed_in_at = datetime.fromtimestamp(started, UTC) if started else timezone.now()
    values = [signed_in_at, data.get(ADDRESS, ""), data.get(BROWSER, ""), user, session_key]
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, values)


def sessions_of(user: User, current: str | None) -> list[Listed]:
    """Return the user's sessions that have not ended, the current one first. Costs two queries."""
    rows = list(UserSession.objects.filter(user=user))
    keys = [row.session_key for row in rows]
    running = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
    ends = dict(running.values_list("session_key", "expire_date"))
    idle = timedelta(hours=settings.SESSION_IDLE_HOURS)
    listed = [
        Listed(
            id=row.pk,
            signed_in_at=row.signed_in_at,
            active_at=max(row.signed_in_at, ends[row.session_key] - idle),
            address=row.address,
            browser=row.browser,
            is_current=row.session_key == current,
        )
        for row in rows
        if row.session_key in ends
    ]
    return sorted(listed, key=lambda session: not session.is_current)


def end(user: User, ids: Sequence[int]) -> int:
    """End these sessions of the user, and return their number. Others' sessions stay."""
    keys = UserSession.objects.filter(user=user, pk__in=ids).values_list("session_key", flat=True)
    return _delete(list(keys))


def end_all(user: User, *, keep: str | None) -> int:
    """End the user's sessions except the one with the key `keep`, and return their number."""
    rows = UserSession.objects.filter(user=user).exclude(session_key=keep or "")
    return _delete(list(rows.values_list("session_key", flat=True)))


def _delete(keys: list[str]) -> int:
    return Session.objects.filter(session_key__in=keys).delete()[0] if keys else 0

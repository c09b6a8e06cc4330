"""Sessions in the database, with an idle limit and a maximum age.

The SQL that reads a session is prepared, because every request runs it.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

from accounts.sign_in import listing
from database.prepared import Prepared

SIGNED_IN_AT = "signed_in_at"
SLACK = timedelta(minutes=5)
"""Precision of a session's stored end. It is updated only this often, so that few requests write it."""

_BY_KEY = Prepared(lambda key: Session.objects.filter(session_key=key), key=str)


class SessionStore(db.SessionStore):
    """A session whose row expires at the idle limit, and whose cookie expires at the maximum age."""

    ends_at: datetime | None = None

    def _get_session_from_db(self) -> Session | None:
        session = _BY_KEY.first(key=self.session_key)
        if session is None or session.expire_date <= timezone.now():
            self._session_key = None
            return None
        self.ends_at = session.expire_date
        return session

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        if SESSION_KEY in data:
            data.setdefault(SIGNED_IN_AT, int(timezone.now().timestamp()))
        session: Any = super().create_model_instance(data)
        session.expire_date = self.ends_at = _end_of(data)
        return session

    def save(self, must_create: bool = False) -> None:
        """Save the session, and record whose it is. Costs a query more than Django's."""
        super().save(must_create)
        session: Any = self
        data: Any = session._get_session(no_load=must_create)
        if SESSION_KEY in data:
            listing.record(self.session_key, data, data.get(SIGNED_IN_AT))

    def extend(self) -> None:
        """Extend the session of a signed-in user. Costs two queries, but only every five minutes."""
        if SESSION_KEY not in self:
            return
        if SIGNED_IN_AT not in self:  # the session is older than this limit
            self[SIGNED_IN_AT] = int(timezone.now().timestamp())
            return
        end = _end_of(self)
        if self.ends_at is not None and abs(end - self.ends_at) >= SLACK:
            if Session.objects.filter(session_key=self.session_key).update(expire_date=end):
                listing.record(self.session_key, self, self[SIGNED_IN_AT])
            self.ends_at = end


def _end_of(data: Any) -> datetime:
    """Return the time at which the session ends if there is no further activity."""
    now = timezone.now()
    started = data.get(SIGNED_IN_AT)
    signed_in_at = datetime.fromtimestamp(started, UTC) if started else now
    return min(
        now + timedelta(hours=settings.SESSION_IDLE_HOURS),
        signed_in_at + timedelta(hours=settings.SESSION_MAX_HOURS),
    )


def extend_active_sessions(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Make middleware that extends the session at each request, except when a script polls the server."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        session: Any = request.session
        idle = not session.accessed or _is_polling(request) or response.status_code >= 500
        if not idle and not session.modified:
            session.extend()
        return response

    return middleware


def _is_polling(request: HttpRequest) -> bool:
    """Return whether a script made the request without any action of the user.

    Scripts that act for the user send a POST. Browsers send Sec-Fetch-Dest only over HTTPS and to
    localhost; without this header, every request counts as the user's activity.
    """
    return request.method == "GET" and request.headers.get("Sec-Fetch-Dest") == "empty"

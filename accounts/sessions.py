"""Django's sessions in the database; each request reads one, so that query's SQL is built once."""

from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.db.models.functions import Now

from accounts.prepared import Prepared

_LIVE = Prepared(
    lambda key: Session.objects.filter(session_key=key, expire_date__gt=Now()), key=str
)


class SessionStore(db.SessionStore):
    def _get_session_from_db(self) -> Session | None:
        session = _LIVE.first(key=self.session_key)
        if session is None:
            self._session_key = None
        return session

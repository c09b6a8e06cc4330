"""Quick 503 responses while the database is unavailable.

A web request waits at most about two seconds for a database that does not answer. After one request has
timed out, later requests probe the server first. A probe takes milliseconds if the server refuses the
connection, and half a second if it hangs.
"""

import logging
import sys
from collections.abc import Callable

import psycopg
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template import loader
from django.utils import translation
from django.views.defaults import server_error as django_server_error

from config.web import connections
from config.web.connections import database_answers, limited_waiting

log = logging.getLogger("tiebreak.outage")

POOL_SECONDS = 2
RETRY_AFTER_SECONDS = 2


def limit_waiting() -> None:
    """Limit this process's wait for a connection to POOL_SECONDS. Call this before the first query."""
    settings.DATABASES["default"]["OPTIONS"]["pool"]["timeout"] = POOL_SECONDS


def is_outage(error: BaseException | None) -> bool:
    """Return whether an error raised by Django means that the database is unavailable."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    cause = error.__cause__
    return not isinstance(cause, psycopg.Error) or connections.is_outage(cause)


class State:
    """The last known state of the database. Each process has one instance."""

    def __init__(self) -> None:
        self.away = False

    def note_outage(self, error: BaseException | None) -> None:
        if not self.away:
            log.error("The database does not answer: %s", str(error).strip())
        self.away = True

    def is_ongoing(self) -> bool:
        """Return whether there is an outage. The database is probed only if it was unavailable before."""
        if self.away and database_answers():
            log.warning("The database answers again.")
            self.away = False
        return self.away


state = State()


# --- requests -------------------------------------------------------------------------------------


class OutageMiddleware:
    """Middleware that limits the time a request waits for the database, and answers 503 in an outage."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if state.is_ongoing():
            return unavailable(request)
        with limited_waiting():
            return self.get_response(request)


def unavailable(request: HttpRequest) -> HttpResponse:
    """Return the 503 response: a page for browsers, problem+json for the API, or plain text."""
    detail = "The database does not answer. Try again in a moment."
    response: HttpResponse
    if request.path_info.startswith("/api/"):
        from accounts.api import Problem  # the logging configuration reads this module first

        response = Problem(503, detail).response()
    elif request.accepts("text/html") and request.path_info != "/health/":
        # If LocaleMiddleware has not run yet, the thread still has the language of its previous
        # request.
        with translation.override(translation.get_language_from_request(request)):
            address = request.get_full_path() if request.method == "GET" else ""
            response = HttpResponse(loader.render_to_string("503.html", {"address": address}))
    else:
        response = HttpResponse(detail, content_type="text/plain")
    response.status_code = 503
    response["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer an uncaught exception with 503 if the database is unavailable, otherwise with 500."""
    error = sys.exc_info()[1]
    if is_outage(error):
        state.note_outage(error)
        return unavailable(request)
    return django_server_error(request)


class OutagesWithoutTraceback(logging.Filter):
    """A log filter that drops records of requests that failed in an outage, which State logs once."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and is_outage(record.exc_info[1]))

"""Tests of responses and log messages while the database is unavailable."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.test import Client
from django.utils import translation
from psycopg import errors
from psycopg_pool import ConnectionPool

from config.web import outage


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage.state, "away", False)


@pytest.fixture
def visitor() -> Client:
    return Client(raise_request_exception=False)


@contextmanager
def failing_with(cause: psycopg.Error) -> Iterator[None]:
    def fail(*args: Any) -> None:
        raise OperationalError(str(cause)) from cause

    with connection.execute_wrapper(fail):
        yield


AWAY = [
    psycopg.OperationalError("server closed the connection unexpectedly"),
    errors.AdminShutdown("terminating connection"),
    errors.CannotConnectNow("the database system is starting up"),
    errors.TooManyConnections("too many clients already"),
]


@pytest.mark.django_db
@pytest.mark.parametrize("cause", AWAY, ids=lambda cause: type(cause).__name__)
def test_a_page_without_a_database_is_a_503_without_traceback(
    visitor: Client, cause: psycopg.Error, caplog: pytest.LogCaptureFixture
) -> None:
    visitor.cookies["sessionid"] = "a" * 32
    with failing_with(cause):
        answer = visitor.get("/", headers={"accept": "text/html"})
    assert (answer.status_code, answer["Retry-After"]) == (503, "2")
    assert "<h1>Temporarily unavailable</h1>" in answer.content.decode()
    [line] = [record for record in caplog.records if record.name == "tiebreak.outage"]
    assert line.levelno == logging.ERROR and line.exc_info is None
    assert not [record for record in caplog.records if record.name == "django.request"]


@pytest.mark.django_db
def test_the_503_page_is_in_the_users_language_and_links_to_reload(
    visitor: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage.state, "away", True)
    monkeypatch.setattr(outage, "database_answers", lambda: False)
    with translation.override("de"):  # left by the previous request
        english = visitor.get("/runs/?q=a&page=2", headers={"accept": "text/html"})
    assert '<html lang="en"' in english.text
    assert 'href="/runs/?q=a&amp;page=2"' in english.text
    german = visitor.post("/", headers={"accept": "text/html", "accept-language": "de"})
    assert '<html lang="de"' in german.text and "Vorübergehend nicht verfügbar" in german.text
    assert 'href="/"' not in german.text, "a form is not sent again"


@pytest.mark.django_db
def test_a_failed_statement_is_not_an_outage(visitor: Client) -> None:
    visitor.cookies["sessionid"] = "a" * 32
    with failing_with(errors.DeadlockDetected("deadlock detected")):
        assert visitor.get("/").status_code == 500
    assert not outage.state.away


@pytest.mark.django_db
def test_programs_get_problem_json_or_plain_text(visitor: Client) -> None:
    with failing_with(AWAY[0]):
        answer = visitor.post(
            "/api/v1/score", {}, "application/json", headers={"authorization": "Bearer x"}
        )
    assert (answer.status_code, answer["Content-Type"]) == (503, "application/problem+json")
    assert json.loads(answer.content)["detail"].startswith("The database does not answer.")
    with failing_with(AWAY[0]):
        answer = visitor.get("/health/", headers={"accept": "text/html"})
    assert (answer.status_code, answer["Content-Type"]) == (503, "text/plain")


@pytest.mark.django_db
def test_after_a_failure_requests_probe_until_the_database_answers(
    visitor: Client, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Callable[..., Any]
) -> None:
    with failing_with(AWAY[0]):
        visitor.get("/health/")
    monkeypatch.setattr(outage, "database_answers", lambda: False)
    with django_assert_num_queries(0):
        assert visitor.get("/health/").status_code == 503
    monkeypatch.setattr(outage, "database_answers", lambda: True)
    assert visitor.get("/health/").content == b"ok"
    assert not outage.state.away


@pytest.mark.django_db
def test_the_probe_needs_no_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outage.database_answers()
    monkeypatch.setitem(connection.settings_dict, "HOST", "/nonexistent")
    assert not outage.database_answers()
    monkeypatch.setitem(connection.settings_dict, "HOST", "")
    assert outage.database_answers(), "libpq decides where the server is; nothing is known of it"


class SwitchedConnection(psycopg.Connection[Any]):
    """A connection to a server that cannot be reached until `reachable` is set."""

    reachable = threading.Event()

    @classmethod
    def connect(cls, *args: Any, **options: Any) -> Any:
        if not cls.reachable.is_set():
            raise psycopg.OperationalError("connection refused")
        return super().connect(*args, **options)


@pytest.mark.slow
@pytest.mark.django_db
def test_a_waiting_thread_gets_a_connection_when_the_database_returns() -> None:
    options = {**settings.DATABASES["default"]["OPTIONS"]["pool"]}
    options["connection_class"] = SwitchedConnection
    parameters = connection.get_connection_params()
    names = ("host", "port", "user", "password", "dbname")
    target = {name: parameters[name] for name in names if parameters.get(name)}
    SwitchedConnection.reachable.clear()
    with ConnectionPool(kwargs=target, open=True, **options) as pool:
        returns = threading.Timer(2.0, SwitchedConnection.reachable.set)  # after two attempts
        returns.start()
        with pool.connection(timeout=30) as waiting:
            assert waiting.execute("SELECT 1").fetchone() == (1,)

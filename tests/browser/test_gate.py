"""Tests of the gate in front of the live server."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, transaction

from tests.gate import Gate
from tests.worker import wait_until

REQUEST = {"REQUEST_METHOD": "POST", "PATH_INFO": "/draft/"}


class Body:
    """A response that records whether it was closed."""

    closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"saved"

    def close(self) -> None:
        self.closed = True


def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Body:
    start_response("200 OK", [])
    return Body()


def ask(gate: Gate) -> tuple[Any, str]:
    """Return the body of a response and its status."""
    statuses: list[str] = []
    body = gate(REQUEST, lambda status, _headers: statuses.append(status))
    return body, statuses[0]


def test_a_closing_gate_waits_for_a_request_and_refuses_the_next():
    gate = Gate(application)
    body, status = ask(gate)
    assert (status, list(body)) == ("200 OK", [b"saved"])
    with ThreadPoolExecutor() as threads:
        closing = threads.submit(gate.close)
        wait_until(lambda: not gate.is_open)
        assert ask(gate) == ([], "503 Service Unavailable")
        assert not closing.done()
        body.close()
        closing.result(timeout=10)
    assert body.response.closed
    gate.open()
    assert ask(gate)[1] == "200 OK"


def test_a_request_that_does_not_end_is_named():
    gate = Gate(application)
    ask(gate)
    with pytest.raises(TimeoutError, match="POST /draft/"):
        gate.close(seconds=0.01)


def test_a_request_that_fails_has_ended():
    def fail(*_arguments: Any) -> Any:
        raise ZeroDivisionError

    gate = Gate(fail)
    with pytest.raises(ZeroDivisionError):
        ask(gate)
    gate.close(seconds=0.01)


def test_requests_to_the_live_server_pass_the_gate(visit, world, live_server):
    world.add_task()
    page = visit("/", world.reviewer)
    gate = live_server.thread.httpd.get_app()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE labeling_slot IN ACCESS EXCLUSIVE MODE")
        page.evaluate("address => { window.reply = fetch(address); }", world.review)
        wait_until(lambda: f"GET {world.review}" in gate.in_progress)
    gate.close()
    assert gate.in_progress == []
    assert page.evaluate("async () => (await window.reply).status") == 200
    assert page.evaluate("async address => (await fetch(address)).status", world.review) == 503

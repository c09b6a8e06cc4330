"""Access of every role to every URL, in its own project and in another, for reading and writing.

The expected statuses are in access_matrix.txt. After an intended change, set TIEBREAK_PIN_ACCESS=1
to regenerate the file, and review the difference. A new page needs no change here unless its URL has
a parameter with a new name, which make_side in access_world.py must know.
"""

import logging
import os
import re
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection, transaction
from django.test import Client

from accounts.models import Scope, Token, User
from serving.address import Server
from tests.house.access_world import Side, make_people, make_side, routes

pytestmark = pytest.mark.django_db
PINNED = Path(__file__).with_name("access_matrix.txt")
COLUMNS = (
    "anonymous", "reviewer", "·other", "lead", "·other", "trainer", "·other", "everywhere",
    "administrator",
)  # fmt: skip
HEADER = """\
Responses of every URL by role: an HTTP status, or "login" for a redirect to a sign-in page.
The columns "·other" are for the same role and a project of which the user is not a member, if the
URL names a project; "everywhere" is a trainer of all projects. The first status of each pair is for reading (GET), the second for writing
(POST) with the fields that the form requires (see SENT in test_access_matrix.py); with access, this
is usually 200, 302 or 422 (invalid input). API requests carry the user's token; there, 503 means that
access was granted, because the tests run no model server.
TIEBREAK_PIN_ACCESS=1 python -m pytest tests/house/test_access_matrix.py regenerates this file.
"""
REFUSED = {"login", "401", "403", "404", "405"}
WRITING = re.compile(r"\s*(WITH\b.*\b)?(INSERT|UPDATE|DELETE)\b", re.IGNORECASE | re.DOTALL)
MAY_BE_WRITTEN = ("accounts_token",)
"""Writes allowed in refused requests: the last use of a token."""

ELSEWHERE = "zeppelin"
"""The name and slug of the project that the members of the other project must not see."""
EVERYWHERE = {"everywhere", "administrator"}

QUERIES = {
    "admin/autocomplete/": "?app_label=labeling&model_name=response&field_name=prompt&term=",
    "api/v1/score": "?project={slug}",
    "api/v1/best-of-n": "?project={slug}",
}
CONVERSATION = {
    "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
}
SENT: dict[str, Any] = {
    "api/v1/score": CONVERSATION,
    "api/v1/best-of-n": {"prompt": "?", "responses": ["!"]},
    "api/v1/projects": {"name": "Lamps"},
    "api/v1/projects/<slug>/guideline/versions": {"text": "Be kind."},
    "api/v1/projects/<slug>/tasks": {"items": [{"messages": CONVERSATION["messages"][:1]}]},
    "api/v1/runs": {"kind": "generate"},
    "api/v1/evaluations": {"inputs": {}},
    "api/v1/projects/<slug>/webhooks": {"url": "https://a.example/", "events": ["run.ended"]},
    "v1/chat/completions": {"messages": CONVERSATION["messages"][:1]},
    "p/<slug>/review/": {"slot": "{slot_id}"},
    "p/<slug>/review/slot/<slot_id>/draft/": {"fields": {"rationale": ["Kept."]}, "at": 1},
    "p/<slug>/review/slot/<slot_id>/skip/": {"reason": "unclear"},
    "models/<pk>/move/": {"to": "archive"},
    "models/reward/<pk>/move/": {"to": "archive"},
    "i18n/setlang/": {"language": "de"},
}
"""Fields for forms that refuse empty data before they check access."""


class Statements:
    """The SQL of all statements executed in a block, including prepared statements."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self.seen.append(str(sql))
        return execute(sql, params, many, context)


class World:
    def __init__(self) -> None:
        self.client = Client(raise_request_exception=False)
        self.own, self.other = make_side("harbour"), make_side(ELSEWHERE)
        people: dict[str, User | None] = {"anonymous": None, **make_people()}
        people["everywhere"] = people["trainer"]
        people |= {role: getattr(self.own, role) for role in ("reviewer", "lead", "trainer")}
        self.sessions = {name: _session(user) for name, user in people.items()}
        self.tokens = {
            name: Token.issue(user=user, name="matrix", scopes=Scope)[1]
            for name, user in people.items()
            if user
        }

    def ask(self, method: str, route: str, person: str, side: Side) -> str:
        """Return the response's status, and roll back all writes of the request."""
        self.client.cookies = SimpleCookie(self.sessions[person])
        statements = Statements()
        with transaction.atomic(), connection.execute_wrapper(statements):
            reply = self._sent(self.client, method, route, person, side)
            status, body = _status(reply), _body(reply)
            transaction.set_rollback(True)
        if side is self.own and person not in EVERYWHERE:
            assert ELSEWHERE not in body, f"{method} {route} shows {person} the other project"
        if status in REFUSED:
            written = [sql for sql in statements.seen if _writes(sql)]
            assert not written, f"{method} {route} refused {person} and wrote {written}"
        return status

    def _sent(self, client: Client, method: str, route: str, person: str, side: Side) -> Any:
        path = side.path(route) + QUERIES.get(route, "").format(**side.values)
        headers = {"Accept": "text/html"}
        if route.startswith(("api/", "v1/")) and person in self.tokens:
            headers["Authorization"] = f"Bearer {self.tokens[person]}"
        if method == "GET":
            return client.get(path, headers=headers)
        form = SENT.get(route, {"post": "yes"} if route.endswith("/delete/") else {})
        if route.startswith("v1/"):
            form = {**form, "model": side.project.slug}
        if route == "api/v1/snapshots":
            form = {"project": side.project.slug}
        if route.startswith(("api/", "v1/")) or route.endswith("/draft/"):
            return client.post(path, form, content_type="application/json", headers=headers)
        filled = {name: str(text).format(**side.values) for name, text in form.items()}
        return client.post(path, filled, headers=headers)


def _session(user: User | None) -> dict[str, str]:
    client = Client()
    if user is None:
        return {}
    client.force_login(user)
    name = django_settings.SESSION_COOKIE_NAME
    return {name: client.cookies[name].value}


def _body(reply: Any) -> str:
    """Return the text of a response, and consume it if it is a stream."""
    content = b"".join(reply.streaming_content) if reply.streaming else reply.content
    return content.decode(errors="replace")


def _status(reply: Any) -> str:
    if reply.status_code == 302 and re.match(r"(/admin)?/login/\?next=", reply["Location"]):
        return "login"
    return str(reply.status_code)


def _writes(sql: str) -> bool:
    return bool(WRITING.match(sql)) and not any(table in sql for table in MAY_BE_WRITTEN)


def row(world: World, route: str) -> list[str]:
    names_one = world.own.path(route) != world.other.path(route) or "{slug}" in QUERIES.get(
        route, ""
    )
    cells = []
    for person, side in (
        ("anonymous", world.own),
        ("reviewer", world.own),
        ("reviewer", world.other),
        ("lead", world.own),
        ("lead", world.other),
        ("trainer", world.own),
        ("trainer", world.other),
        ("everywhere", world.own),
        ("administrator", world.own),
    ):
        if side is world.own or names_one:
            cells.append(" ".join(world.ask(way, route, person, side) for way in ("GET", "POST")))
        else:
            cells.append("")
    return cells


def lines(table: dict[str, list[str]]) -> str:
    width = max(map(len, table)) + 2
    shown = [_line("address", COLUMNS, width)]
    shown += [_line(route or "(start)", cells, width) for route, cells in table.items()]
    return HEADER + "\n" + "\n".join(shown) + "\n"


def _line(route: str, cells: Any, width: int) -> str:
    return (f"{route:<{width}}" + "".join(f"{cell:<13}" for cell in cells)).rstrip()


@pytest.fixture
def world(settings, tmp_path):
    settings.UPLOADS_DIR = tmp_path / "uploads"
    settings.SNAPSHOTS_DIR = tmp_path / "snapshots"
    settings.RUNS_DIR = tmp_path / "runs"
    settings.MODEL_SERVER = Server(f"unix:{tmp_path}/no.sock")
    logging.disable(logging.ERROR)  # silence thousands of refusals with stack traces
    yield World()
    logging.disable(logging.NOTSET)


def test_every_url_answers_every_role_as_pinned(world):
    table = {route: row(world, route) for route in sorted(routes())}
    if os.environ.get("TIEBREAK_PIN_ACCESS"):
        PINNED.write_text(lines(table))
    pinned = set(PINNED.read_text().splitlines())
    changed = [line for line in lines(table).splitlines() if line not in pinned]
    gone = pinned - set(lines(table).splitlines())
    assert not changed and not gone, (
        "Review the changes; TIEBREAK_PIN_ACCESS=1 writes them if they are meant.\n"
        + "\n".join(changed or sorted(gone))
    )


def test_no_url_fails():
    """Check that no status is 5xx, except for the API's 503 without a model server."""
    table = PINNED.read_text().split("\naddress", 1)[1]
    failing = [
        line
        for line in table.splitlines()
        if re.search(r"\b5\d\d\b", line) and not line.startswith(("api/v1/", "v1/"))
    ]
    assert not failing

"""Tests that no URL fails on parameters, fields, cookies or bodies that no browser would send.

The names that a view reads are recorded, and forms are parsed from pages, so that new parameters
and fields need no change here. All writes of a request are rolled back.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.db import transaction
from django.db.models import JSONField
from django.http import QueryDict
from django.test import Client

from accounts.models import Scope, Token
from accounts.zones import COOKIE as ZONE_COOKIE
from config.web.limits import UPLOAD_COOKIE
from serving.address import Server
from tests.house.access_world import PARAMETER, Side, make_people, make_side, routes

pytestmark = pytest.mark.django_db

HOSTILE = [
    "\xb2", "9" * 25, "9" * 4301, "-1", "1e999", "nan", "a\0b", "x" * 30_000,
    "0001-01-01", "9999-12-31", "\ufffd\u202e",
]  # fmt: skip
HIDDEN = ["\xb2", "9" * 25, "9" * 4301, "a\0b"]
"""Values that are tried for each name separately."""
SMALL_FORM = 6
"""Largest form whose fields are also tried separately."""
SURROGATE = "%ED%A0%80"
"""An unpaired surrogate as a client would send it. In JSON it is an escape."""
LEFT_ALONE = {"csrfmiddlewaretoken", "_method"}
ROTATIONS_OF_THE_ADMIN = 2
JSON_FIELDS = {
    field.name
    for model in apps.get_models()
    for field in model._meta.get_fields()
    if isinstance(field, JSONField)
}
OF_THE_ADMIN = [
    "q", "p", "o", "e", "all", "_facets", "_popup", "_to_field", "_changelist_filters",
    "id__exact", "id__in", "project__id__exact", "created_at__year", "action", "_selected_action",
    "app_label", "model_name", "field_name", "term",
]  # fmt: skip


class Forms(HTMLParser):
    """A parser that collects the fields of each form of a page, by the form's URL."""

    def __init__(self, html: str, path: str) -> None:
        super().__init__()
        self.forms: dict[str, dict[str, str]] = {}
        self.path, self.outside = path, {}
        self.fields: dict[str, str] = self.outside
        self.text = self.choices = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        name, value = attributes.get("name", ""), attributes.get("value", "")
        if tag == "form":
            address = urlsplit(attributes.get("action", "")).path or self.path
            self.fields = self.forms.setdefault(address, {})
        elif tag == "textarea" and name:
            self.text, self.fields[name] = name, ""
        elif tag == "select":
            self.choices = name
        elif (
            tag == "option"
            and self.choices
            and ("selected" in attributes or self.choices not in self.fields)
        ):
            self.fields[self.choices] = value
        elif tag in ("input", "button") and name:
            is_sent = attributes.get("type") not in ("radio", "checkbox") or "checked" in attributes
            if is_sent or name not in self.fields:
                self.fields[name] = value

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.fields = self.outside
        elif tag == "textarea":
            self.text = ""

    def handle_data(self, data: str) -> None:
        if self.text:
            self.fields[self.text] += data


class Attacker:
    def __init__(self) -> None:
        self.side: Side = make_side("harbour")
        self.client = Client(raise_request_exception=False)
        self.sessions = {}
        people = make_people()
        self.trainer = people["trainer"]
        for name, user in (
            ("administrator", people["administrator"]),
            ("reviewer", self.side.reviewer),
        ):
            client = Client()
            client.force_login(user)
            self.sessions[name] = client.cookies[django_settings.SESSION_COOKIE_NAME].value
        self.html, self.read, self.requests = "", set(), 0
        self.failed: list[tuple[str, ...]] = []

    def ask(self, method: str, route: str, *, path: str = "", query: str = "", **more: Any) -> int:
        """Return the status, and record a failure."""
        path = path or self.side.path(route)
        reviewer = "/review/" in route
        cookie = f"{django_settings.SESSION_COOKIE_NAME}={self.sessions['reviewer' if reviewer else 'administrator']}"
        more.setdefault("HTTP_COOKIE", cookie)
        self.html, self.requests = "", self.requests + 1
        self.read.clear()
        with transaction.atomic():
            reply = getattr(self.client, method)(path, QUERY_STRING=query, **more)
            body = b"".join(reply.streaming_content) if reply.streaming else reply.content
            transaction.set_rollback(True)
        if "html" in reply.get("Content-Type", ""):
            self.html = body.decode(errors="replace")
        self.client.cookies.clear()
        status = reply.status_code
        scores = route.startswith(("api/v1/", "v1/")) and status == 503  # no model server
        if status >= 500 and not scores:
            what = (
                str(more.get("data") or more.get("HTTP_COOKIE") or "")
                if method == "post"
                else query
            )
            self.failed.append((str(status), method, route, path[:100], what[:150]))
        return status

    def names(self, route: str) -> list[str]:
        """Return the names of the parameters that a GET of the URL reads."""
        names: set[str] = set()
        for _ in range(3):
            before = len(names)
            self.ask("get", route, query=urlencode(dict.fromkeys(names, "1")))
            names |= self.read - LEFT_ALONE
            if len(names) == before:
                break
        return sorted(names)


@pytest.fixture
def attacker(settings: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Attacker]:
    for name in ("UPLOADS_DIR", "SNAPSHOTS_DIR", "RUNS_DIR"):
        setattr(settings, name, tmp_path / name.lower())
    settings.MODEL_SERVER = Server(f"unix:{tmp_path}/no.sock")
    logging.disable(logging.CRITICAL)
    attacker = Attacker()

    def recording(method: str) -> None:
        plain = getattr(QueryDict, method)

        def record(data: QueryDict, name: Any, *more: Any, **kwargs: Any) -> Any:
            attacker.read.add(name)
            return plain(data, name, *more, **kwargs)

        monkeypatch.setattr(QueryDict, method, record)

    for method in ("__getitem__", "__contains__", "getlist", "get"):
        recording(method)
    yield attacker
    logging.disable(logging.NOTSET)


def rotated(names: list[str], shift: int) -> dict[str, str]:
    return {name: HOSTILE[(number + shift) % len(HOSTILE)] for number, name in enumerate(names)}


def pages() -> list[str]:
    return [route for route in routes() if not route.startswith(("admin/", "api/", "v1/"))]


def test_no_page_fails_on_a_parameter(attacker: Attacker) -> None:
    for route in pages():
        names = attacker.names(route)
        for shift in range(len(HOSTILE)) if names else ():
            attacker.ask("get", route, query=urlencode(rotated(names, shift)))
        # Separately too, because one bad value may prevent the page from reading the next.
        for name in names if len(names) > 1 else ():
            for value in [*map(quote, HIDDEN), SURROGATE]:
                attacker.ask("get", route, query=f"{name}={value}&{name}={value}")
    assert not attacker.failed


def test_no_page_fails_on_a_field(attacker: Attacker) -> None:
    forms: dict[str, dict[str, str]] = defaultdict(dict)
    addresses = {attacker.side.path(route): route for route in pages()}
    for path, route in addresses.items():
        attacker.ask("get", route)
        for action, fields in Forms(attacker.html, path).forms.items():
            forms[action].update(fields)
    for path, route in addresses.items():
        attacker.ask("post", route, data=forms[path])
        names = sorted(({*forms[path]} | attacker.read) - LEFT_ALONE)
        for shift in range(len(HOSTILE)) if names else ():
            attacker.ask("post", route, data=rotated(names, shift))
        # With valid values in all other fields, because one bad value may hide the next.
        for name in names if len(names) <= SMALL_FORM else ():
            for value in HIDDEN:
                attacker.ask("post", route, data={**forms[path], name: value})
    assert not attacker.failed


def test_no_page_fails_on_a_path_parameter(attacker: Attacker) -> None:
    for route in routes():
        values = attacker.side.path(route)
        for match in PARAMETER.finditer(route):
            before = attacker.side.path(route[: match.start()])
            after = values[len(attacker.side.path(route[: match.end()])) :]
            for value in [*(quote(value, safe="") for value in HOSTILE), SURROGATE]:
                attacker.ask("get", route, path=before + value + after)
    assert not attacker.failed


def as_header(value: str) -> str:
    """Return a header's bytes decoded as a WSGI server decodes them."""
    return value.encode().decode("latin-1")


HEADERS = [
    "HTTP_ACCEPT", "HTTP_ACCEPT_LANGUAGE", "HTTP_AUTHORIZATION", "HTTP_HOST", "HTTP_REFERER",
    "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_CSRFTOKEN", "HTTP_HX_REQUEST",
    "HTTP_ORIGIN", "HTTP_RANGE", "HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "CONTENT_LENGTH",
    "CONTENT_TYPE", "REMOTE_ADDR",
]  # fmt: skip


def test_no_page_fails_on_a_cookie_or_a_header(attacker: Attacker) -> None:
    session = django_settings.SESSION_COOKIE_NAME
    known = f"{session}={attacker.sessions['administrator']}"
    names = [
        session, django_settings.CSRF_COOKIE_NAME, django_settings.LANGUAGE_COOKIE_NAME,
        UPLOAD_COOKIE, ZONE_COOKIE, "messages", "",
    ]  # fmt: skip
    for value in [*map(as_header, HOSTILE), '"', "a=b;c", "\xff"]:
        for name in names:
            for route in ("people/", "login/"):
                attacker.ask("get", route, HTTP_COOKIE=f"{known}; {name}={value}; {name}={value}")
        attacker.ask("post", "login/", HTTP_COOKIE="; ".join(f"{n}={value}" for n in names))
        for name in HEADERS:
            for text in (value, f"Bearer {value}") if name == "HTTP_AUTHORIZATION" else (value,):
                attacker.ask("get", "people/", **{name: text})
                attacker.ask("post", "login/", **{name: text})
                attacker.ask("post", "api/v1/score", **{name: text})
    assert not attacker.failed


JSON = [
    *map(json.dumps, HOSTILE), *HOSTILE, r'"\ud800"', "-Infinity", "null", "true", "{}", "[]", "[[]]",
    "[" * 100_000, '{"a":' * 100_000, '"',
]  # fmt: skip
TURNS = '[{"role": "user", "content": "?"}, {"role": %s, "content": %s}]'
BODIES = {
    "api/v1/score": [
        "%s", "[%s]", '{"messages": %s}', '{"messages": [%s]}',
        '{"messages": ' + TURNS.replace("%s", '"assistant"', 1) + "}",
        '{"messages": ' + TURNS + "}", '{"messages": [], %s: 1}',
    ],
    "api/v1/best-of-n": [
        '{"prompt": %s, "responses": ["a"]}', '{"prompt": "a", "responses": %s}',
        '{"prompt": "a", "responses": ["a", %s]}', '{"prompt": ' + TURNS + ', "responses": ["a"]}',
    ],
    "api/v1/projects": ["%s", '{"name": %s}', '{"name": "a", "slug": %s}', '{"name": "a", "settings": {"gold_percent": %s}}'],
    "api/v1/projects/<slug>/guideline/versions": [
        "%s", '{"text": %s}', '{"text": "a", "criteria": [{"name": %s, "meaning": %s}]}',
    ],
    "api/v1/projects/<slug>/tasks": [
        "%s", '{"items": [%s]}', '{"items": [{"messages": %s}]}', '{"items": [{"messages": [{"role": "user", "content": %s}]}]}',
        '{"items": [{"id": %s, "meta": %s, "messages": [{"role": "user", "content": "a"}], "responses": [%s, "b"]}]}',
    ],
    "api/v1/projects/<slug>/tasks/<number>/withdraw": ['{"reason": %s}'],
    "api/v1/runs": [
        "%s", '{"kind": %s}', '{"kind": "generate", "inputs": {"project": %s, "model": %s}}',
        '{"kind": "evaluate", "inputs": {"candidate": %s, "limit": %s}, "config": {"seed": %s}}',
    ],
    "api/v1/snapshots": ['{"project": %s}', '{"project": "a", "filter": {"since": %s}}'],
    "api/v1/projects/<slug>/webhooks": [
        '{"url": %s, "events": ["run.ended"]}', '{"url": "https://a.example", "events": [%s]}',
    ],
    "api/v1/evaluations": ['{"inputs": {"candidate": %s, "judge": %s}}'],
    "api/v1/models/<number>/<action>": ['{"reason": %s}'],
    "p/<slug>/review/slot/<slot_id>/draft/": [
        "%s", '{"fields": %s}', '{"fields": {"rationale": %s}}', '{"fields": {"rationale": [%s]}}',
        '{"fields": {%s: ["a"]}}', '{"fields": {}, "at": %s}', '{"fields": {}, "active_seconds": %s}',
    ],
}  # fmt: skip


def test_no_url_that_reads_json_fails_on_its_body(attacker: Attacker) -> None:
    key = Token.issue(user=attacker.trainer, name="hostile", scopes=Scope)[1]
    project = f"project={attacker.side.project.slug}"
    json_with_token: dict[str, Any] = {
        "content_type": "application/json", "HTTP_AUTHORIZATION": f"Bearer {key}",
    }  # fmt: skip
    for route, bodies in BODIES.items():
        for body in bodies:
            for value in JSON:
                text = body.replace("%s", value)
                attacker.ask("post", route, query=project, data=text, **json_with_token)
    whole = '{"messages": ' + TURNS % ('"assistant"', '"a"') + "}"
    for value in [*map(quote, HOSTILE), SURROGATE]:
        for query in (f"project={value}", f"{project}&model={value}"):
            attacker.ask("post", "api/v1/score", query=query, data=whole, **json_with_token)
    assert not attacker.failed


def test_no_page_of_the_admin_fails_on_a_parameter_or_a_field(attacker: Attacker) -> None:
    for route in routes():
        if route.startswith("admin/"):
            attacker.ask("get", route)
            fields = Forms(attacker.html, attacker.side.path(route)).forms.values()
            names = sorted({name for form in fields for name in form} - LEFT_ALONE)
            json_names = [name for name in names if name in JSON_FIELDS]
            for value in JSON if json_names else ():
                attacker.ask("post", route, data=dict.fromkeys(json_names, value))
            for shift in range(ROTATIONS_OF_THE_ADMIN):
                attacker.ask("post", route, data=rotated(names, 7 * shift))
                attacker.ask("get", route, query=urlencode(rotated(OF_THE_ADMIN, 7 * shift)))
    assert not attacker.failed

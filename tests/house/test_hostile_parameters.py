"""No address fails on parameters and form fields that no browser would send.

The names come from the pages themselves (form fields and links) and from the source, so that a new
parameter is tried without a change here.
"""

import logging
import re
from html import unescape
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from django.test import Client
from django.utils.http import urlencode

from config.env import BASE_DIR
from tests.house.access_world import Side, make_people, make_side, routes

pytestmark = pytest.mark.django_db

HOSTILE = {"null character": "\0"}
READ_IN_SOURCE = re.compile(r"(?:GET|POST)(?:\.get(?:list)?\(|\[)\s*[\"'](\w+)[\"']")
FIELD = re.compile(r"<(?:input|select|textarea|button)\b[^>]*\bname=\"([^\"]+)\"")
LINK = re.compile(r"(?:href|action)=\"([^\"]*\?[^\"]*)\"")
OF_THE_ADMIN = {
    "q", "p", "o", "e", "all", "_facets", "_popup", "_to_field", "_changelist_filters",
    "id__exact", "id__in", "project__id__exact", "created_at__year", "created_at__month",
    "created_at__day", "action", "_selected_action", "app_label", "model_name", "field_name", "term",
}  # fmt: skip
LEFT_ALONE = {"csrfmiddlewaretoken"}


def source_names() -> set[str]:
    files = (
        path
        for app in ("accounts", "config", "labeling", "runs", "reward", "finetune")
        for path in (BASE_DIR / app).rglob("*.py")
    )
    return {name for path in files for name in READ_IN_SOURCE.findall(Path(path).read_text())}


def names_on(html: str) -> set[str]:
    links = (parse_qsl(urlsplit(unescape(link)).query) for link in LINK.findall(html))
    return {*map(unescape, FIELD.findall(html))} | {name for query in links for name, _ in query}


class Attacker:
    def __init__(self) -> None:
        self.side: Side = make_side()
        self.client = Client(raise_request_exception=False)
        self.sessions = {}
        administrator = make_people()["administrator"]
        for name, user in (("administrator", administrator), ("reviewer", self.side.reviewer)):
            self.client.force_login(user)
            self.sessions[name] = self.client.cookies[django_settings.SESSION_COOKIE_NAME].value
        self.names = source_names()

    def ask(self, person: str, method: str, path: str, **more: object) -> int:
        """Return the status; everything that the request wrote is undone."""
        session = {django_settings.SESSION_COOKIE_NAME: self.sessions.get(person, "")}
        self.client.cookies = SimpleCookie(session | more.pop("cookies", {}))
        with transaction.atomic():
            reply = getattr(self.client, method)(path, **more)
            if not reply.streaming:
                self.html = reply.content.decode(errors="replace")
            else:
                list(reply.streaming_content)
            transaction.set_rollback(True)
        return reply.status_code

    def names_of(self, person: str, route: str) -> list[str]:
        self.html = ""
        self.ask(person, "get", self.side.path(route))
        more = OF_THE_ADMIN if route.startswith("admin/") else self.names
        return sorted({*names_on(self.html), *more} - LEFT_ALONE)


@pytest.fixture
def attacker(settings, tmp_path):
    settings.UPLOADS_DIR = tmp_path / "uploads"
    settings.SNAPSHOTS_DIR = tmp_path / "snapshots"
    settings.RUNS_DIR = tmp_path / "runs"
    settings.SCORER_SOCKET = tmp_path / "no.sock"
    logging.disable(logging.CRITICAL)
    yield Attacker()
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_page_fails_on_a_parameter_or_a_field(attacker, value):
    failed = []
    for route in routes():
        if route.startswith("api/"):
            continue
        person = "reviewer" if "/review/" in route else "administrator"
        path, names = attacker.side.path(route), attacker.names_of(person, route)
        sent = dict.fromkeys(names, value)
        answers = {
            "GET": attacker.ask(person, "get", f"{path}?{urlencode(sent)}"),
            "POST": attacker.ask(person, "post", path, data=sent),
        }
        # One at a time too: a bad value may keep a page from reading the next parameter.
        for name in () if route.startswith("admin/") else attacker.names & set(names):
            alone = f"{path}?{urlencode({name: value})}"
            answers[f"GET {name}"] = attacker.ask(person, "get", alone)
        failed += [(way, route) for way, status in answers.items() if status >= 500]
    assert not failed

"""Tests of the idle limit and the maximum age of sessions, with a fake clock."""

from datetime import datetime, timedelta

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Role, User, UserSession

pytestmark = pytest.mark.django_db

IDLE, MAXIMUM = timedelta(hours=12), timedelta(hours=336)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = timezone.now()
        monkeypatch.setattr("accounts.sign_in.sessions.timezone.now", lambda: self.now)

    def forward(self, **time: float) -> None:
        self.now += timedelta(**time)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def client(clock: Clock) -> Client:
    client = Client()
    client.force_login(User.objects.create(username="ada", role=Role.REVIEWER))
    return client


def is_signed_in(client: Client, **headers: str) -> bool:
    return client.get("/projects/", headers=headers).status_code == 200


def stored_end() -> datetime:
    return Session.objects.get().expire_date


def test_activity_extends_the_idle_limit(client, clock):
    for _ in range(4):
        clock.forward(hours=11)
        assert is_signed_in(client)
    clock.forward(hours=12, seconds=1)
    assert not is_signed_in(client)


def test_a_session_from_before_the_upgrade_is_listed_after_its_next_activity(client, clock):
    UserSession.objects.all().delete()
    clock.forward(minutes=10)
    assert is_signed_in(client)
    assert UserSession.objects.get().user.username == "ada"


def test_a_session_ends_at_its_maximum_age(client, clock):
    for _ in range(int(MAXIMUM / timedelta(hours=6)) - 1):
        clock.forward(hours=6)
        assert is_signed_in(client)
    clock.forward(hours=6, seconds=1)
    assert not is_signed_in(client)


def test_polling_does_not_extend_a_session(client, clock):
    clock.forward(hours=11)
    assert is_signed_in(client, sec_fetch_dest="empty")
    clock.forward(hours=2)
    assert not is_signed_in(client)


def test_a_post_by_a_script_counts_as_activity(client, clock):
    clock.forward(hours=11)
    client.post("/p/none/review/", headers={"sec-fetch-dest": "empty"})
    clock.forward(hours=2)
    assert is_signed_in(client)


def test_the_limit_is_written_at_most_every_five_minutes(client, clock):
    is_signed_in(client)
    end = stored_end()
    clock.forward(minutes=4)
    with CaptureQueriesContext(connection) as queries:
        is_signed_in(client)
    assert not any(query["sql"].startswith("UPDATE") for query in queries)
    assert stored_end() == end
    clock.forward(minutes=2)
    is_signed_in(client)
    assert stored_end() == end + timedelta(minutes=6)


def test_an_older_session_gets_both_limits(client, clock):
    session = client.session
    del session["signed_in_at"]
    Session.objects.update(
        session_data=session.encode(dict(session)), expire_date=clock.now + timedelta(days=90)
    )
    assert is_signed_in(client)
    assert stored_end() == clock.now + IDLE
    for _ in range(int(MAXIMUM / timedelta(hours=6)) - 1):
        clock.forward(hours=6)
        assert is_signed_in(client)
    clock.forward(hours=6, seconds=1)
    assert not is_signed_in(client)


def test_the_limits_can_be_set(client, clock, settings):
    settings.SESSION_IDLE_HOURS = 1
    clock.forward(hours=1, minutes=30)
    assert is_signed_in(client), "the limit in force when the request was made"
    clock.forward(hours=1, minutes=1)
    assert not is_signed_in(client)

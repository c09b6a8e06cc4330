"""Tests of audit entries for sign-ins, sign-outs and failed attempts."""

import pytest
from django.test import Client

from accounts.models import AuditEntry, Role, User

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fast_hashes(settings) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


PASSWORD = "correct horse 9"


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=PASSWORD, role=Role.TRAINER, all_projects=True)


def entries() -> list[tuple[str, str, str | None]]:
    return [
        (entry.action, entry.subject, entry.user and entry.user.username)
        for entry in AuditEntry.objects.order_by("id")
    ]


@pytest.mark.parametrize("address", ["/login/", "/admin/login/"])
def test_a_sign_in_and_a_sign_out_are_recorded(ada, address):
    client = Client()
    client.post(address, {"username": "ada", "password": PASSWORD})
    client.post("/logout/")
    assert entries() == [("signed in", "User ada", "ada"), ("signed out", "User ada", "ada")]


def test_a_failed_sign_in_is_recorded_without_the_password(ada):
    Client().post("/login/", {"username": "ada", "password": "a-guess"})
    assert entries() == [("sign-in failed", "User ada", None)]
    assert AuditEntry.objects.get().details == {"address": "127.0.0.1"}
    assert "a-guess" not in str(list(AuditEntry.objects.values()))


def test_an_unknown_name_is_truncated(ada):
    """Avoid storing passwords that were typed into the wrong field."""
    Client().post("/login/", {"username": PASSWORD, "password": "x"})
    assert entries() == [("sign-in failed", "Unknown name cor…", None)]


def test_signing_out_without_a_session_records_nothing():
    Client().post("/logout/")
    assert entries() == []

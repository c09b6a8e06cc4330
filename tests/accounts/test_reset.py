"""Tests of forgotten passwords: one-time links by e-mail."""

import re

import pytest
from django.core import mail
from django.test import Client

from accounts import people, reset
from accounts.models import AuditEntry, User

pytestmark = pytest.mark.django_db
SITE = "https://tiebreak.example.org/"
NEW = {"new_password1": "another horse 43", "new_password2": "another horse 43"}


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password="correct horse 42", email="ada@example.org")


@pytest.fixture
def messages(settings, monkeypatch) -> list[list[str]]:
    """Turn e-mail on, and return the messages to the worker."""
    settings.EMAIL_URL = "smtp://mail.example.org"
    sent: list[list[str]] = []
    monkeypatch.setattr(
        reset.current_app, "send_task", lambda name, args, **options: sent.append([name, *args])
    )
    return sent


def ask(name: str):
    return Client().post("/password/reset/", {"name": name})


def test_the_answer_and_its_cost_do_not_tell_whether_an_account_exists(
    ada, messages, django_assert_num_queries
):
    pages = set()
    for name in ("ada", "ada@example.org", "nobody"):
        with django_assert_num_queries(2):  # the counts of attempts; accounts are not read
            reply = ask(name)
        pages.add(re.sub(r"\w{64}", "", reply.content.decode()))  # the CSRF token
    [page] = pages
    assert "on its way" in page
    assert messages == [
        ["accounts.tasks.send_reset_links", name, "http://testserver/"]
        for name in ("ada", "ada@example.org", "nobody")
    ]


def test_the_link_in_the_mail_sets_a_new_password_once(ada):
    User.objects.create_user("bob", email="bob@example.org")
    assert reset.send_links("ADA@example.org", SITE) == 1
    [message] = mail.outbox
    assert message.to == ["ada@example.org"] and "account ada at" in message.body
    link = re.search(r"https://tiebreak\.example\.org(/link/\S+)", message.body)[1]
    client = Client()
    form = client.get(link, follow=True)
    assert client.post(form.request["PATH_INFO"], NEW).status_code == 302
    ada.refresh_from_db()
    assert ada.check_password("another horse 43")
    assert "not valid" in Client().get(link, follow=True).content.decode()
    assert AuditEntry.objects.filter(action="one-time link issued").count() == 1


def test_a_request_of_a_stranger_does_not_end_a_link_that_was_just_sent(ada):
    path = people.issue_link(person=ada, by=None)
    reset.send_links("ada", SITE)
    assert "Set a password" in Client().get(path, follow=True).content.decode()


@pytest.mark.parametrize(
    "fields", [{"is_active": False}, {"email": ""}, {"simulated": True}, {"username": "eve"}]
)
def test_no_mail_is_sent_for_accounts_that_cannot_use_it(ada, fields):
    User.objects.filter(pk=ada.pk).update(**fields)
    assert reset.send_links("ada", SITE) == 0 and not mail.outbox


def test_requests_are_throttled(ada, messages, settings):
    settings.SIGN_IN_FAILURES, settings.SIGN_IN_FAILURES_BY_ADDRESS = 2, 4
    assert [ask("ada").status_code for _ in range(3)] == [200, 200, 429]
    assert [ask("bob").status_code for _ in range(2)] == [200, 429]
    assert len(messages) == 3


def test_without_email_the_page_says_whom_to_ask(ada, settings):
    settings.EMAIL_URL = ""
    for reply in (Client().get("/password/reset/"), ask("ada")):
        assert reply.status_code == 200
        assert "Ask an administrator" in reply.content.decode() and 'name="name"' not in reply.text


def test_a_broker_that_is_down_is_said(ada, settings, monkeypatch):
    settings.EMAIL_URL = "smtp://mail.example.org"

    def refuse(*args, **options):
        raise OSError("refused")

    monkeypatch.setattr(reset.current_app, "send_task", refuse)
    reply = ask("ada")
    assert reply.status_code == 422 and "cannot be sent at the moment" in reply.content.decode()


@pytest.mark.parametrize("name", ["", "nul\x00", "x" * 255])
def test_invalid_text_is_refused(messages, name):
    assert ask(name).status_code == 422 and not messages

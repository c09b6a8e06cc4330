"""Tests of API tokens: issuing, revoking and limits per minute."""

import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import AuditEntry, Role, Token
from labeling.models import Membership
from tests.labeling.world import in_threads, make_project, make_user

pytestmark = pytest.mark.django_db


def said(*command):
    out = io.StringIO()
    call_command(*command, stdout=out)
    return out.getvalue()


def test_a_key_is_printed_once_and_only_its_hash_is_stored():
    user = make_user(Role.LEAD)
    key = said("token", "issue", user.username, "--name", "nightly").strip()
    token = Token.of_key(key)
    assert token and token.user == user and token.name == "nightly"
    assert key not in str(Token.objects.values().get()) and key.startswith("tb_")
    listed = said("token", "list", "--user", user.username)
    assert "nightly" in listed and key not in listed
    assert AuditEntry.objects.get().action == "token issued"


def test_a_revoked_token_is_refused_and_its_revocation_is_audited():
    token, key = Token.issue(user=make_user(), name="nightly")
    assert "would be revoked" in said("token", "revoke", str(token.pk), "--dry-run")
    assert Token.of_key(key)
    said("token", "revoke", str(token.pk))
    assert Token.of_key(key) is None and "nightly" not in said("token", "list")
    assert AuditEntry.objects.get().action == "token deleted"


def test_a_dry_run_issues_no_token_and_explains_errors():
    user = make_user()
    assert "would be issued" in said("token", "issue", user.username, "--name", "a", "--dry-run")
    user.is_active = False
    user.save()
    for command, sentence in [
        (["issue", "nobody", "--name", "a"], "There is no user 'nobody'"),
        (["issue", user.username, "--name", "a"], "is not active"),
        (["revoke", "99999"], "no token 99999"),
    ]:
        with pytest.raises(CommandError, match=sentence):
            call_command("token", *command)
    assert not Token.objects.exists()


def test_the_owner_of_a_token_must_be_active():
    user = make_user()
    _, key = Token.issue(user=user, name="a")
    user.is_active = False
    user.save()
    assert Token.of_key(key) is None


def test_the_last_use_of_a_token_is_written_once_a_minute():
    token, key = Token.issue(user=make_user(), name="a")
    Token.of_key(key)
    with CaptureQueriesContext(connection) as queries:
        Token.of_key(key)
    assert len(queries) == 1
    token.refresh_from_db()
    first = token.last_used_at
    Token.objects.update(last_used_at=first - timedelta(seconds=61))
    Token.of_key(key)
    token.refresh_from_db()
    assert token.last_used_at >= first


def test_the_allowance_is_counted_per_minute():
    token, _ = Token.issue(user=make_user(), name="a")
    now = int(timezone.now().timestamp()) // 60
    Token.objects.update(minute=now + 1000)  # any other minute
    assert token.spend(250, limit=100), "a first request is never refused"
    assert not token.spend(1, limit=100)
    Token.objects.update(minute=now - 1)
    assert [token.spend(40, limit=100) for _ in range(3)] == [True, True, False]
    assert token.spend(20, limit=100) and not token.spend(1, limit=100)
    token.refresh_from_db()
    assert token.spent == 100


@pytest.mark.django_db(transaction=True)
def test_two_concurrent_requests_cannot_both_take_the_last_unit():
    token, _ = Token.issue(user=make_user(), name="a")
    token.spend(90, limit=100)
    taken = in_threads(*[lambda: token.spend(10, limit=100)] * 4)
    assert sum(taken) in (1, 2), "2 only if a minute ended during the test"


def test_the_admin_issues_a_key_that_works_and_shows_it_once():
    admin = make_user(is_superuser=True)
    client = Client()
    client.force_login(admin)
    page = client.post("/admin/accounts/token/add/", {"user": admin.pk, "name": "a"}, follow=True)
    key = page.content.decode().split("The key is ")[1].split(".")[0]
    token = Token.of_key(key)
    assert token and token.name == "a"
    assert key not in client.get("/admin/accounts/token/").content.decode()


def test_a_person_makes_and_revokes_their_own_tokens_on_a_page():
    user, client = make_user(Role.LEAD), Client()
    client.force_login(user)
    project = make_project()
    Membership.objects.create(project=project, user=user)
    form = {"name": "export", "scopes": ["read"], "project": project.slug, "days": 7}
    page = client.post("/tokens/", form).content.decode()
    key = page.split('value="tb_')[1].split('"')[0]
    token = Token.of_key(f"tb_{key}")
    assert token and token.user == user and token.scopes == ["read"] and token.project == project
    assert timedelta(days=6) < token.expires_at - timezone.now() < timedelta(days=8)
    assert key not in client.get("/tokens/").content.decode()
    assert client.post("/tokens/", {**form, "scopes": []}).status_code == 422
    other = make_project()
    assert client.post("/tokens/", {**form, "project": other.slug}).status_code == 422
    stranger = Client()
    stranger.force_login(make_user())
    assert stranger.post(f"/tokens/{token.pk}/revoke/").status_code == 404
    assert client.post(f"/tokens/{token.pk}/revoke/").status_code == 302
    assert not Token.objects.exists()


def test_the_options_of_a_token_are_set_on_the_command_line():
    user, project = make_user(Role.TRAINER), make_project()
    options = ["--scope", "read", "--scope", "label", "--project", project.slug, "--days", "3"]
    said("token", "issue", user.username, "--name", "a", *options)
    token = Token.objects.get()
    assert (token.scopes, token.project) == (["read", "label"], project)
    assert token.expires_at < timezone.now() + timedelta(days=3)
    for wrong in (["--project", "none"], ["--days", "0"]):
        with pytest.raises(CommandError):
            call_command("token", "issue", user.username, "--name", "b", *wrong)


def test_an_expired_token_is_not_found():
    past = timezone.now() - timedelta(seconds=1)
    _, key = Token.issue(user=make_user(), name="a", expires_at=past)
    assert Token.of_key(key) is None and Token.of_key(key, expired=True)

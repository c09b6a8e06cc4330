"""Tests of the commands `invite` and `member`."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from accounts.models import AuditEntry, Role
from labeling.models import Invitation
from tests.labeling.world import make_member, make_project, make_user

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue().strip()


def test_invite_prints_a_link_that_works(project, lead):
    link = run(
        "invite", project.slug, "--role", "lead", "--uses", "3", "--days", "2",
        "--by", lead.username, "--site", "https://rank.example.org/",
    )  # fmt: skip
    assert link.startswith("https://rank.example.org/invitation/")
    row = Invitation.objects.get()
    days = (row.expires_at - timezone.now()).total_seconds() / 86400
    assert (row.role, row.max_uses, row.created_by, round(days)) == ("lead", 3, lead, 2)
    page = Client().get(link.removeprefix("https://rank.example.org"))
    assert page.status_code == 200


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--by", "{lead}", "--role", "trainer"], "not one of the available choices"),
        (["--uses", "0"], "From 1 to 1,000"), (["--days", "x"], "whole number"),
        (["--by", "nobody"], "nobody"),
    ],
)  # fmt: skip
def test_invite_refuses_invalid_options(project, lead, arguments, sentence):
    with pytest.raises(CommandError, match=sentence):
        run("invite", project.slug, *(text.format(lead=lead.username) for text in arguments))
    with pytest.raises(CommandError, match="no open project"):
        run("invite", "nowhere")
    assert "would be created" in run("invite", project.slug, "--dry-run")
    assert not Invitation.objects.exists()


def test_member_adds_changes_and_removes(project):
    person = make_user()
    assert "would be a reviewer" in run("member", project.slug, person.username, "--dry-run")
    assert not project.memberships.exists()
    for role in ("reviewer", "trainer"):
        assert f"now a {role}" in run("member", project.slug, person.username, "--role", role)
        assert project.memberships.get().role == role
    person.refresh_from_db()
    assert person.role == Role.TRAINER
    assert "already a trainer" in run("member", project.slug, person.username, "--role", "trainer")
    assert "no longer" in run("member", project.slug, person.username, "--remove")
    assert not project.memberships.exists()
    assert set(AuditEntry.objects.values_list("action", flat=True)) >= {
        "member added", "member’s role changed", "member removed",
    }  # fmt: skip


def test_member_says_what_is_wrong(project):
    gone = make_member(make_project())
    for arguments, sentence in (
        (["nowhere", gone.username], "no open project"),
        ([project.slug, "nobody"], "nobody"),
        ([project.slug, gone.username, "--remove"], "is not a member"),
    ):
        with pytest.raises(CommandError, match=sentence):
            run("member", *arguments)

"""Tests of invitations: links with which people join a project."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.core import mail
from django.db import close_old_connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import AuditEntry, Role, User
from labeling.models import Invitation, Membership
from labeling.projects import invitations
from labeling.projects.invitations import InvitationError, InvitationForm
from tests.clients import signed_in
from tests.labeling.world import make_member, make_project, make_user

pytestmark = pytest.mark.django_db
ACCOUNT = {
    "username": "grace", "first_name": "Grace", "last_name": "Hopper",
    "password1": "battery staple 7", "password2": "battery staple 7",
}  # fmt: skip


def invite(client, project, **fields):
    form = {"role": "reviewer", "max_uses": 1, "days": 7, **fields}
    return client.post(reverse("project-invite", args=[project.slug]), form)


def link_in(reply) -> str:
    return re.search(r"http://testserver(/invitation/[^\"]+)", reply.content.decode())[1]


def key_for(project, by, **fields) -> str:
    """Return the key of a new invitation."""
    form = {"role": "reviewer", "max_uses": 1, "days": 7, **fields}
    form = InvitationForm(form, project=project, by=by)
    assert form.is_valid(), form.errors
    return invitations.create(form=form)[1].split("/")[-2]


# --- creating ------------------------------------------------------------------------------------


def test_a_lead_creates_a_link_that_is_shown_once(lead_client, project, lead):
    reply = invite(lead_client, project, role="lead", max_uses=3)
    assert reply.status_code == 200 and "no-store" in reply["Cache-Control"]
    link, invitation = link_in(reply), Invitation.objects.get()
    assert (invitation.role, invitation.max_uses, invitation.created_by) == ("lead", 3, lead)
    key = link.split("/")[-2]
    assert len(key) == 43 and key not in str(Invitation.objects.values().get())
    page = lead_client.get(reverse("project-members", args=[project.slug])).content.decode()
    assert "0 of 3" in page and key not in page
    assert AuditEntry.objects.get(action="invitation created").details["role"] == "lead"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"role": "trainer"}, "role"), ({"role": "owner"}, "role"), ({"max_uses": 0}, "max_uses"),
        ({"max_uses": 1001}, "max_uses"), ({"days": 0}, "days"), ({"days": "9" * 30}, "days"),
    ],
)  # fmt: skip
def test_an_invalid_invitation_has_an_error_next_to_the_field(lead_client, project, fields, name):
    reply = invite(lead_client, project, **fields)
    assert reply.status_code == 422 and reply.context["invite"].errors[name]
    assert not Invitation.objects.exists()


def test_only_leads_of_the_project_invite_and_revoke(lead_client, project, lead):
    invite(lead_client, project)
    invitation = Invitation.objects.get()
    url = reverse("project-revoke", args=[project.slug, invitation.pk])
    elsewhere = make_member(make_project(), "lead")
    for person, status in ((make_member(project), 403), (elsewhere, 404)):
        assert invite(signed_in(person), project).status_code == status
        assert signed_in(person).post(url).status_code == status
    foreign = reverse(
        "project-revoke", args=[elsewhere.memberships.get().project.slug, invitation.pk]
    )
    assert signed_in(elsewhere).post(foreign).status_code == 404
    assert Invitation.objects.open().count() == 1
    assert lead_client.get(url).status_code == 405


def test_a_link_is_sent_by_email_where_it_is_configured(lead_client, project, settings):
    assert "email" not in invite(lead_client, project, email="g@example.org").context
    assert not mail.outbox
    settings.EMAIL_URL = "smtp://mail.example.org"
    reply = invite(lead_client, project, email="g@example.org")
    [message] = mail.outbox
    assert message.to == ["g@example.org"] and link_in(reply) in message.body
    assert "was sent to g@example.org" in reply.content.decode()
    reply = invite(lead_client, project, email="g@example.org", max_uses=2)
    assert reply.status_code == 422 and len(mail.outbox) == 1


# --- accepting -----------------------------------------------------------------------------------


def test_a_person_without_an_account_creates_one_and_is_signed_in(project, lead):
    link = reverse("invitation", args=[key_for(project, lead)])
    client = Client()
    page = client.get(link).content.decode()
    assert project.name in page and f"/login/?next={link}" in page
    assert client.post(link, ACCOUNT).url == f"/p/{project.slug}/"
    grace = User.objects.get(username="grace")
    assert (grace.role, grace.is_staff, grace.check_password("battery staple 7")) == (
        "reviewer", False, True,
    )  # fmt: skip
    assert client.get(f"/p/{project.slug}/").status_code == 200
    assert grace.memberships.get().role == "reviewer"
    entry = AuditEntry.objects.get(action="invitation accepted")
    assert entry.user == grace and "battery" not in str(list(AuditEntry.objects.values()))
    assert Client().post(link, {**ACCOUNT, "username": "second"}).status_code == 404
    assert not User.objects.filter(username="second").exists()


def test_a_signed_in_person_joins_with_the_role_of_the_invitation(project, lead):
    person = make_user()
    client = signed_in(person)
    link = reverse("invitation", args=[key_for(project, lead, role="lead")])
    assert "You are signed in as" in client.get(link).content.decode()
    assert not project.memberships.filter(user=person).exists()
    assert client.post(link).url == f"/p/{project.slug}/"
    person.refresh_from_db()
    assert (person.role, person.memberships.get().role) == (Role.LEAD, "lead")
    assert client.get(f"/p/{project.slug}/members/").status_code == 200


def test_a_member_does_not_use_up_an_invitation(project, lead):
    member = make_member(project)
    key = key_for(project, lead, role="lead")
    client = signed_in(member)
    page = client.get(reverse("invitation", args=[key])).content.decode()
    assert "already a member" in page
    client.post(reverse("invitation", args=[key]))
    assert Invitation.objects.get().uses == 0
    assert member.memberships.get().role == "reviewer"


@pytest.mark.parametrize(
    "end", ["revoked", "expired", "archived", "removed", "demoted", "deactivated", "wrong key"]
)
def test_an_invitation_ends(lead_client, project, lead, end):
    key = key_for(project, lead)
    invitation = Invitation.objects.get()
    match end:
        case "revoked":
            lead_client.post(reverse("project-revoke", args=[project.slug, invitation.pk]))
        case "expired":
            Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        case "archived":
            project.archived_at = timezone.now()
            project.save()
        case "removed":
            lead.memberships.all().delete()
        case "demoted":
            lead.memberships.update(role=Membership.Role.REVIEWER)
        case "deactivated":
            User.objects.filter(pk=lead.pk).update(is_active=False)
        case "wrong key":
            key = key[:-1] + ("a" if key[-1] != "a" else "b")
    link = reverse("invitation", args=[key])
    for client in (Client(), signed_in(make_user())):
        assert client.get(link).status_code == 404
        assert client.post(link, ACCOUNT).status_code == 404
        assert project.name not in client.get(link).content.decode()
    assert not User.objects.filter(username="grace").exists()
    assert Invitation.objects.get().uses == 0


def test_a_taken_name_or_weak_password_keeps_the_form(project, lead):
    link = reverse("invitation", args=[key_for(project, lead)])
    for wrong in ({"username": lead.username.upper()}, {"password1": "1", "password2": "1"}):
        reply = Client().post(link, ACCOUNT | wrong)
        assert reply.status_code == 422 and reply.context["form"].errors
    assert (Invitation.objects.get().uses, User.objects.count()) == (0, 1)


def test_guessing_keys_and_usernames_is_throttled(project, lead, settings):
    settings.SIGN_IN_FAILURES, settings.SIGN_IN_FAILURES_BY_ADDRESS = 100, 3
    link = reverse("invitation", args=[key_for(project, lead, max_uses=9)])
    for _ in range(2):
        assert Client().get("/invitation/guess/").status_code == 404
    assert Client().get(link).status_code == 200
    assert Client().post(link, ACCOUNT | {"username": lead.username}).status_code == 422
    assert Client().get("/invitation/guess/").status_code == 429
    reply = Client().post(link, ACCOUNT)
    assert reply.status_code == 429 and "Retry-After" in reply
    assert not User.objects.filter(username="grace").exists()


def test_a_second_click_on_a_used_link_leads_a_member_to_the_project(project, lead):
    client = signed_in(make_user())
    link = reverse("invitation", args=[key_for(project, lead)])
    assert [client.post(link).url for _ in range(2)] == [f"/p/{project.slug}/"] * 2
    assert Client().get(link).status_code == 404


def test_a_name_that_was_taken_in_the_meantime_is_an_error_next_to_the_field(
    project, lead, monkeypatch
):
    accept = invitations.accept

    def late(**options):
        User.objects.create(username="grace")
        return accept(**options)

    monkeypatch.setattr(invitations, "accept", late)
    reply = Client().post(reverse("invitation", args=[key_for(project, lead)]), ACCOUNT)
    assert reply.status_code == 422 and "already exists" in str(reply.context["form"].errors)
    assert (Invitation.objects.get().uses, project.memberships.count()) == (0, 1)


@pytest.mark.django_db(transaction=True)
def test_a_link_for_one_person_is_used_once_even_by_two_at_the_same_time():
    project = make_project()
    key = key_for(project, make_member(project, "lead"))
    persons = [make_user(), make_user()]

    def accept(person):
        try:
            invitations.accept(key=key, person=person)
        except InvitationError:
            return False
        finally:
            close_old_connections()
        return True

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(accept, persons))
    assert outcomes == [False, True] and Invitation.objects.get().uses == 1

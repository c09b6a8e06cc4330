"""Tests of managing the members of a project."""

import re

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Role, User
from labeling.models import Membership, Project
from labeling.projects import memberships
from labeling.queue import slots
from tests.clients import signed_in
from tests.labeling.world import make_member, make_project, make_task, make_user

pytestmark = pytest.mark.django_db

LEAD, REVIEWER = Membership.Role.LEAD, Membership.Role.REVIEWER


def address(name: str, project: Project, *arguments: int) -> str:
    return reverse(f"project-{name}", args=[project.slug, *arguments])


def role_of(person: User, project: Project) -> str | None:
    return (
        Membership.objects.filter(user=person, project=project)
        .values_list("role", flat=True)
        .first()
    )


def entry(action: str) -> tuple[str, dict]:
    audit_entry = AuditEntry.objects.get(action=action)
    return audit_entry.user.username, audit_entry.details


def post(client: Client, url: str, **form: str) -> str:
    return client.post(url, form, follow=True).content.decode()


# --- adding --------------------------------------------------------------------------------------


def test_a_lead_adds_a_person_with_an_account(lead_client, project, lead):
    person = make_user()
    page = post(lead_client, address("members", project), username=person.username, role="reviewer")
    assert f"{person} is now a member." in page
    assert role_of(person, project) == REVIEWER
    assert entry("member added") == (
        lead.username, {"person": person.username, "role": "reviewer"},
    )  # fmt: skip
    own_page = reverse("project", args=[project.slug])
    assert signed_in(person).get(own_page).status_code == 200


@pytest.mark.parametrize(
    ("person", "role", "sentence"),
    [
        (None, "reviewer", "Nobody has this username"),
        ({}, "trainer", "Only trainers of the project can make"),
        ({"is_active": False}, "reviewer", "cannot sign in"),
        ({}, "owner", "Select a valid choice"),
    ],
)
def test_people_who_cannot_be_added_cause_an_error_next_to_the_field(
    lead_client, project, person, role, sentence
):
    name = "nobody" if person is None else make_user(**person).username
    answer = lead_client.post(address("members", project), {"username": name, "role": role})
    assert answer.status_code == 422
    errors = str(answer.context["add"].errors)
    assert sentence in errors and f'value="{name}"' in answer.content.decode()
    assert project.memberships.count() == 1


def test_nobody_is_added_twice(lead_client, project):
    person = make_member(project)
    page = post(lead_client, address("members", project), username=person.username, role="reviewer")
    assert "is already a member of this project" in page
    assert project.memberships.filter(user=person).count() == 1


# --- roles and removal ---------------------------------------------------------------------------


def test_a_role_is_changed(lead_client, project, lead):
    other = make_user(Role.LEAD)
    Membership.objects.create(project=project, user=other, role=REVIEWER)
    page = post(lead_client, address("member-role", project, other.pk), role="lead")
    assert f"{other} is now a lead of this project." in page and role_of(other, project) == LEAD
    assert entry("member’s role changed") == (
        lead.username, {"person": other.username, "role": "lead"},
    )  # fmt: skip
    post(lead_client, address("member-role", project, other.pk), role="lead")
    assert AuditEntry.objects.filter(action="member’s role changed").count() == 1


@pytest.mark.parametrize("role", ["trainer", "owner", ""])
def test_an_invalid_role_is_refused(lead_client, project, role):
    reviewer = make_member(project)
    page = post(lead_client, address("member-role", project, reviewer.pk), role=role)
    assert "Only trainers of the project" in page or "must be reviewer, lead or trainer" in page
    assert role_of(reviewer, project) == REVIEWER


@pytest.mark.parametrize(
    ("by", "account", "role", "account_later"),
    [
        ("lead", "reviewer", "lead", "lead"),
        ("lead", "lead", "trainer", None),
        ("lead", "trainer", "trainer", "trainer"),
        ("trainer", "reviewer", "trainer", "trainer"),
        ("trainer", "lead", "trainer", "trainer"),
    ],
)
def test_nobody_gives_a_role_above_their_own_to_a_lower_account(
    project, lead, by, account, role, account_later
):
    """Check the account's role after the change, or None if the change is refused."""
    giver = lead if by == "lead" else make_member(project, Membership.Role.TRAINER)
    person = make_user(account, all_projects=False)
    Membership.objects.create(project=project, user=person, role=REVIEWER)
    post(signed_in(giver), address("member-role", project, person.pk), role=role)
    person.refresh_from_db()
    allowed = account_later is not None
    assert role_of(person, project) == (role if allowed else REVIEWER)
    assert (person.role, person.all_projects) == (account_later or account, False)
    assert AuditEntry.objects.filter(action="user changed").exists() is (
        allowed and account != role
    )


def test_the_admin_refuses_a_role_that_the_members_page_refuses(lead_client, project, lead):
    reviewer = make_member(project)
    form = {name: str(value) for name, value in vars(project).items() if value is not False}
    form.pop("archived_at")
    form |= {"memberships-TOTAL_FORMS": "2", "memberships-INITIAL_FORMS": "2"}
    members = list(project.memberships.order_by("pk"))

    def send(roles):
        for number, member in enumerate(members):
            form.update({
                f"memberships-{number}-id": member.pk, f"memberships-{number}-project": project.pk,
                f"memberships-{number}-user": member.user_id, f"memberships-{number}-role": roles[number],
            })  # fmt: skip
        url = reverse("admin:labeling_project_change", args=[project.pk])
        return lead_client.post(url, form).content.decode()

    assert "Only trainers of the project" in send(["lead", "trainer"])
    assert "A project needs a lead" in send(["reviewer", "reviewer"])
    assert (role_of(lead, project), role_of(reviewer, project)) == (LEAD, REVIEWER)
    send(["lead", "lead"])
    reviewer.refresh_from_db()
    assert (role_of(reviewer, project), reviewer.role) == (LEAD, Role.LEAD)


def test_a_trainer_counts_as_a_lead_of_the_project(lead_client, project, lead):
    make_member(project, Membership.Role.TRAINER)
    post(lead_client, address("member-remove", project, lead.pk))
    assert role_of(lead, project) is None


def test_removing_a_member_frees_their_reservation(lead_client, project, lead):
    reviewer = make_member(project)
    make_task(project, rankings_wanted=1)
    slot = slots.claim(project=project, reviewer=reviewer)
    page = post(lead_client, address("member-remove", project, reviewer.pk))
    assert "Their rankings are kept" in page and role_of(reviewer, project) is None
    assert entry("member removed")[1]["person"] == reviewer.username
    assert signed_in(reviewer).get(address("members", project)).status_code == 404
    assert slots.claim(project=project, reviewer=lead).pk == slot.pk
    assert lead_client.post(address("member-remove", project, reviewer.pk)).status_code == 404


def test_removing_a_member_in_the_admin_frees_their_reservation_too(lead_client, project, lead):
    reviewer = make_member(project)
    make_task(project, rankings_wanted=1)
    slots.claim(project=project, reviewer=reviewer)
    form = {name: str(value) for name, value in vars(project).items() if value is not False}
    form.pop("archived_at")
    form |= {"memberships-TOTAL_FORMS": "2", "memberships-INITIAL_FORMS": "2"}
    for number, member in enumerate(project.memberships.order_by("pk")):
        form |= {
            f"memberships-{number}-id": member.pk, f"memberships-{number}-project": project.pk,
            f"memberships-{number}-user": member.user_id, f"memberships-{number}-role": member.role,
        }  # fmt: skip
        if member.user == reviewer:
            form[f"memberships-{number}-DELETE"] = "on"
    lead_client.post(reverse("admin:labeling_project_change", args=[project.pk]), form)
    assert role_of(reviewer, project) is None
    assert slots.claim(project=project, reviewer=lead) is not None


def test_only_someone_with_all_projects_can_remove_the_last_lead(lead_client, project, lead):
    for url, form in (("member-remove", {}), ("member-role", {"role": "reviewer"})):
        assert "A project needs a lead" in post(lead_client, address(url, project, lead.pk), **form)
    assert role_of(lead, project) == LEAD
    post(signed_in(make_user(Role.TRAINER)), address("member-remove", project, lead.pk))
    assert role_of(lead, project) is None


def test_a_lead_may_leave_if_another_lead_remains(lead_client, project, lead):
    make_member(project, Role.LEAD)
    answer = lead_client.post(address("member-remove", project, lead.pk))
    assert answer.url == "/" and role_of(lead, project) is None


# --- creating people -----------------------------------------------------------------------------


def link_in(page: str) -> str:
    return re.search(r"http://testserver(/link/[^\"]+)", page)[1]


def test_a_lead_can_create_only_reviewers(lead_client, project, lead):
    form = {"username": "grace", "role": "trainer", "is_superuser": "on"}
    answer = lead_client.post(address("members-new", project), form)
    grace = User.objects.get(username="grace")
    assert (grace.role, grace.is_superuser, grace.has_usable_password()) == (
        "reviewer",
        False,
        False,
    )
    assert role_of(grace, project) == REVIEWER
    assert "no-store" in answer["Cache-Control"]
    page = Client().get(link_in(answer.content.decode()), follow=True)
    assert "Your username is grace" in page.content.decode()
    actions = set(AuditEntry.objects.filter(user=lead).values_list("action", flat=True))
    assert {"user added", "member added", "one-time link issued"} <= actions


def test_an_administrator_chooses_the_role_of_a_new_person(project):
    root = signed_in(make_user(is_superuser=True))
    root.post(address("members-new", project), {"username": "grace", "role": "lead"})
    grace = User.objects.get(username="grace")
    assert (grace.role, role_of(grace, project)) == ("lead", REVIEWER)


def test_an_invalid_account_has_an_error_next_to_the_field(lead_client, project, lead):
    for name in (lead.username, "two words", ""):
        answer = lead_client.post(address("members-new", project), {"username": name})
        assert answer.status_code == 422 and answer.context["create"].errors["username"]
    assert User.objects.count() == 1
    assert lead_client.get(address("members-new", project)).status_code == 302


def test_a_lead_can_issue_links_until_the_account_is_used(lead_client, project):
    lead_client.post(address("members-new", project), {"username": "grace"})
    grace = User.objects.get(username="grace")
    link = address("member-link", project, grace.pk)
    assert lead_client.get(link).status_code == 405
    assert link in lead_client.get(address("members", project)).content.decode()
    assert "/link/" in lead_client.post(link).content.decode()
    grace.set_password("battery staple 7")
    grace.save()
    assert lead_client.post(link).status_code == 403
    assert link not in lead_client.get(address("members", project)).content.decode()


@pytest.mark.parametrize(
    "fields",
    [
        {"role": Role.TRAINER}, {"is_superuser": True}, {"password": "set"}, {"simulated": True},
        {"is_active": False},
    ],
)  # fmt: skip
def test_a_lead_can_issue_links_only_for_unused_reviewer_accounts(lead_client, project, fields):
    person = make_user(**({"password": "!"} | fields))
    Membership.objects.create(project=project, user=person, role=REVIEWER)
    assert lead_client.post(address("member-link", project, person.pk)).status_code == 403
    person.refresh_from_db()
    assert person.link_number == 0


def test_a_lead_cannot_issue_links_for_other_projects(lead_client, project, lead):
    person = make_user(password="!")
    Membership.objects.create(project=project, user=person, role=REVIEWER)
    assert memberships.linkable(lead, [person]) == {person.pk}
    Membership.objects.create(project=make_project(), user=person, role=REVIEWER)
    assert memberships.linkable(lead, [person]) == set()
    assert lead_client.post(address("member-link", project, person.pk)).status_code == 403


# --- access --------------------------------------------------------------------------------------


def test_only_leads_of_the_project_manage_its_members(project, lead):
    reviewer, newcomer = make_member(project), make_user()
    elsewhere = make_member(make_project(), Role.LEAD)
    urls = [
        address("members", project), address("members-new", project),
        address("member-role", project, lead.pk), address("member-remove", project, lead.pk),
        address("member-link", project, reviewer.pk),
    ]  # fmt: skip
    form = {"username": newcomer.username, "role": "reviewer"}
    for url in urls:
        assert Client().post(url, form).url.startswith("/login/")
        assert signed_in(reviewer).post(url, form).status_code == 403
        assert signed_in(elsewhere).post(url, form).status_code == 404
    assert signed_in(reviewer).get(urls[0]).status_code == 403
    members = set(project.memberships.values_list("user", "role"))
    assert members == {(lead.pk, "lead"), (reviewer.pk, "reviewer")}
    assert User.objects.filter(link_number__gt=0).count() == 0


def test_members_of_another_project_cannot_be_changed(lead_client, project):
    stranger = make_member(make_project())
    for url in ("member-role", "member-remove", "member-link"):
        answer = lead_client.post(address(url, project, stranger.pk), {"role": "lead"})
        assert answer.status_code == 404
    assert stranger.memberships.count() == 1

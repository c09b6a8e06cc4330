"""Tests of creating projects."""

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Role
from labeling.models import Membership, Project
from labeling.projects.creation import proposed_slug
from tests.clients import signed_in
from tests.labeling.world import make_project, make_user

pytestmark = pytest.mark.django_db

PAGE = "/projects/new/"


def form(**changes: str) -> dict[str, str]:
    values = {
        "name": "Lamp letters", "slug": "", "description": "", "rankings_per_task": "2",
        "allow_ties": "on", "min_rationale": "0",
    }  # fmt: skip
    return values | changes


@pytest.mark.parametrize("role", [Role.LEAD, Role.TRAINER])
def test_the_creator_of_a_project_becomes_its_lead_or_trainer(role):
    lead = make_user(role)
    answer = signed_in(lead).post(PAGE, form(rankings_per_task="3"), follow=True)
    project = Project.objects.get()
    assert answer.redirect_chain == [(reverse("project", args=["lamp-letters"]), 302)]
    assert (project.name, project.rankings_per_task, project.allow_ties) == (
        "Lamp letters",
        3,
        True,
    )
    assert project.memberships.get().role == role
    entries = AuditEntry.objects.filter(user=lead).order_by("id").values_list("action", flat=True)
    assert list(entries)[-2:] == ["project added", "member added"]


def test_an_administrator_creates_a_project():
    root = make_user(is_superuser=True)
    signed_in(root).post(PAGE, form())
    assert Project.objects.get().memberships.get().user == root


def test_a_reviewer_cannot_create_a_project():
    reviewer = signed_in(make_user())
    assert reviewer.get(PAGE).status_code == reviewer.post(PAGE, form()).status_code == 403
    assert Client().post(PAGE, form()).status_code == 302
    assert "/projects/new/" not in reviewer.get("/").content.decode()
    assert not Project.objects.exists()


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"name": ""}, "name", "This field is required."),
        ({"slug": "Lamp letters!"}, "slug", "Enter a valid"),
        ({"slug": "taken"}, "slug", "already exists"),
        ({"rankings_per_task": "0"}, "rankings_per_task", "From 1 to 9."),
        ({"rankings_per_task": "9" * 4301}, "rankings_per_task", "Enter a whole number."),
        ({"name": "x" * 121}, "name", "at most 120"),
    ],
)
def test_an_error_is_next_to_its_field_and_input_is_kept(changes, field, sentence):
    Project.objects.create(slug="taken", name="Taken")
    answer = signed_in(make_user(Role.LEAD)).post(PAGE, form(description="Typed.", **changes))
    assert answer.status_code == 422
    assert sentence in str(answer.context["form"].errors[field])
    assert "Typed." in answer.content.decode()
    assert Project.objects.count() == 1


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Lamp letters", "lamp-letters"), ("Größere Lampen", "groere-lampen"), ("ランプ", "project"),
        ("x" * 120, "x" * 55), ("  -- ", "project"),
    ],
)  # fmt: skip
def test_a_slug_is_proposed_from_the_name(name, slug):
    assert proposed_slug(name) == slug
    Project.objects.create(slug=slug, name=name)
    Project.objects.create(slug=f"{slug}-2", name=name)
    assert proposed_slug(name) == f"{slug}-3"


def test_a_slug_taken_concurrently_is_an_error_next_to_the_field(monkeypatch):
    monkeypatch.setattr("labeling.projects.creation.proposed_slug", lambda name: "raced")
    monkeypatch.setattr(Project, "validate_unique", lambda self, exclude=None: None)
    Project.objects.create(slug="raced", name="First")
    answer = signed_in(make_user(Role.LEAD)).post(PAGE, form())
    assert answer.status_code == 422
    assert "was just created" in str(answer.context["form"].errors["slug"])
    assert Project.objects.count() == 1 and not Membership.objects.exists()


def test_pages_link_to_the_form_and_not_to_the_admin():
    lead = signed_in(make_user(Role.LEAD))
    for address in ("/", "/projects/"):
        page = lead.get(address).content.decode()
        assert PAGE in page and "/admin/labeling/project/add/" not in page
    make_project()
    assert PAGE in lead.get("/").content.decode()


def test_a_project_created_in_the_admin_is_led_by_its_creator():
    lead = make_user(Role.LEAD)
    values = {name: str(value) for name, value in vars(Project(name="Lamps", slug="lamps")).items()}
    values |= {"memberships-TOTAL_FORMS": "0", "memberships-INITIAL_FORMS": "0"}
    values |= {"allow_ties": "on", "allow_partial": "", "simulated": "", "archived_at": ""}
    answer = signed_in(lead).post(reverse("admin:labeling_project_add"), values)
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    membership = Membership.objects.get()
    assert (membership.user, membership.role) == (lead, "lead")
    assert AuditEntry.objects.filter(action="project added", user=lead).count() == 1

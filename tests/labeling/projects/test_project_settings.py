"""Tests of the settings of a project."""

from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.admin import site
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Role, User
from labeling.models import Membership, Project
from labeling.projects.settings import FIELDS, PolicyForm
from tests.clients import signed_in
from tests.labeling.world import make_member, make_project, make_task, make_user

pytestmark = pytest.mark.django_db

NOT_POLICY = {
    "id", "slug", "current_version", "simulated", "archived_at",
    "created_at",
}  # fmt: skip


@pytest.fixture
def lead(project) -> User:
    user = make_user(Role.LEAD)
    Membership.objects.create(project=project, user=user, role=Membership.Role.LEAD)
    return user


def url(project: Project) -> str:
    return reverse("project-settings", args=[project.slug])


def fields(project: Project, **changes) -> dict[str, str]:
    values = {name: getattr(project, name) for name in FIELDS} | changes
    return {name: str(value) for name, value in values.items() if value is not False}


def test_every_policy_field_is_on_the_page_in_the_admin_and_in_the_docs(project):
    assert set(FIELDS) == {field.name for field in Project._meta.concrete_fields} - NOT_POLICY
    text = (Path(settings.BASE_DIR) / "docs" / "project-settings.md").read_text()
    shown = {name for _, options in site._registry[Project].fieldsets for name in options["fields"]}
    for name in FIELDS:
        assert f"| `{name}` |" in text, f"docs/project-settings.md leaves out {name}"
        assert name in shown, f"the admin leaves out {name}"
        assert PolicyForm(instance=project).fields[name].help_text or name.startswith("sees_")


def test_only_leads_of_the_project_see_and_change_settings(project, lead):
    assert Client().get(url(project)).status_code == 302
    assert signed_in(lead).get(url(project)).status_code == 200
    changed = fields(project, lease_minutes=5)
    for face, status in ((make_member(project), 403), (make_member(make_project()), 404)):
        assert signed_in(face).get(url(project)).status_code == status
        assert signed_in(face).post(url(project), changed).status_code == status
    project.refresh_from_db()
    assert project.lease_minutes == 30


def test_changes_are_saved_and_audited_with_the_previous_values(project, lead):
    changed = fields(project, overlap="sequential", rankings_at_most=4, allow_ties=False)
    answer = signed_in(lead).post(url(project), changed, follow=True)
    assert "Saved: overlap, maximum rankings per task, allow ties." in (answer.content.decode())
    project.refresh_from_db()
    assert (project.overlap, project.rankings_at_most, project.allow_ties) == (
        "sequential",
        4,
        False,
    )
    entry = AuditEntry.objects.get(action="project settings changed")
    assert entry.user == lead
    assert entry.details["changes"] == {
        "overlap": ["fixed", "sequential"],
        "rankings_at_most": [3, 4],
        "allow_ties": [True, False],
    }


def test_unchanged_settings_are_not_written(project, lead):
    page = fields(project, lease_minutes=10)
    Project.objects.filter(pk=project.pk).update(simulated=True)
    signed_in(lead).post(url(project), page)
    project.refresh_from_db()
    assert (project.simulated, project.lease_minutes) == (True, 10)


def test_renaming_a_project_keeps_its_url(project, lead):
    signed_in(lead).post(url(project), fields(project, name="Letters", description="Of a shop."))
    slug = project.slug
    project.refresh_from_db()
    assert (project.name, project.description, project.slug) == ("Letters", "Of a shop.", slug)
    assert AuditEntry.objects.get(action="project settings changed").details["changes"]["name"] == [
        slug,
        "Letters",
    ]
    answer = signed_in(lead).post(url(project), fields(project, name=""))
    assert answer.status_code == 422 and "This field is required." in answer.content.decode()


def test_saving_without_changes_writes_nothing(project, lead):
    answer = signed_in(lead).post(url(project), fields(project), follow=True)
    assert "Nothing changed." in answer.content.decode()
    assert not AuditEntry.objects.filter(action="project settings changed").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rankings_per_task": 0}, "From 1 to 9."),
        ({"rankings_per_task": 10}, "From 1 to 9."),
        (
            {"overlap": "sequential", "rankings_per_task": 4},
            "Must be at least 4, the number of rankings",
        ),
        ({"overlap": "sometimes"}, "Select a valid choice"),
        ({"certainty": 0.5}, "Enter a number between 0.5 and 1"),
        ({"certainty": 1}, "Enter a number between 0.5 and 1"),
        ({"gold_percent": 51}, "From 0 to 50."),
        ({"qualification_percent": 101}, "From 0 to 100."),
        ({"lease_minutes": 0}, "From 1 to 1,440."),
        ({"lease_minutes": 1441}, "From 1 to 1,440."),
        ({"min_rationale": 20001}, "From 0 to 20,000."),
        ({"revision_hours": 8761}, "From 0 to 8,760."),
        ({"sees_models": "nobody"}, "Select a valid choice"),
    ],
)
def test_invalid_settings_are_refused_with_a_sentence(project, lead, changes, sentence):
    answer = signed_in(lead).post(url(project), fields(project, **changes))
    assert answer.status_code == 422
    assert sentence in answer.content.decode()
    before = {name: getattr(project, name) for name in FIELDS}
    project.refresh_from_db()
    assert {name: getattr(project, name) for name in FIELDS} == before


def test_fixed_overlap_may_exceed_the_sequential_maximum(project, lead):
    signed_in(lead).post(url(project), fields(project, rankings_per_task=5))
    project.refresh_from_db()
    assert project.rankings_per_task == 5


def test_the_admin_refuses_the_same_and_writes_the_same_audit_entry(project):
    make_task(project)
    admin = signed_in(make_user(is_superuser=True))
    address = reverse("admin:labeling_project_change", args=[project.pk])
    form = {
        "name": project.name,
        "memberships-TOTAL_FORMS": "0",
        "memberships-INITIAL_FORMS": "0",
    }
    answer = admin.post(address, form | fields(project, certainty=2))
    assert "Enter a number between 0.5 and 1" in answer.content.decode()
    answer = admin.post(address, form | fields(project, sees_models="after"))
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    entry = AuditEntry.objects.get(action="project settings changed")
    assert entry.details["changes"] == {"sees_models": ["leads", "after"]}

"""Tests that pages do not link to the Django admin, except for the audit trail."""

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.urls import reverse

from accounts.models import Role
from labeling.models import Project
from tests.clients import signed_in
from tests.labeling.pages.test_pages_project import make_lead
from tests.labeling.world import make_member, make_project, make_user

TEMPLATES = Path(settings.BASE_DIR) / "templates"
ALLOWED = {
    "accounts/people.html": {"admin:accounts_auditentry_changelist"},
}


def admin_links() -> dict[str, set[str]]:
    links = {}
    for template in TEMPLATES.rglob("*.html"):
        name = template.relative_to(TEMPLATES).as_posix()
        text = template.read_text()
        named = set(re.findall(r"[\"'](admin:\w+)[\"']", text))
        named |= set(re.findall(r"\bin the admin\b", text))
        if named and not name.startswith("admin/"):
            links[name] = named
    return links


def test_only_the_link_to_the_audit_trail_leads_to_the_admin():
    assert admin_links() == ALLOWED


@pytest.mark.django_db
def test_a_trainer_without_projects_is_sent_to_create_one_before_freezing():
    page = signed_in(make_user(Role.TRAINER)).get(reverse("new-snapshot")).content.decode()
    assert reverse("new-project") in page


@pytest.mark.django_db
def test_without_a_guideline_leads_are_sent_to_it_and_reviewers_wait():
    project = make_project()
    Project.objects.filter(pk=project.pk).update(current_version=None)
    review, guideline = (
        reverse(name, args=[project.slug]) for name in ("review", "project-guideline")
    )
    for_lead = signed_in(make_lead(project)).get(review).content.decode()
    for_reviewer = signed_in(make_member(project)).get(review).content.decode()
    assert guideline in for_lead
    assert guideline not in for_reviewer
    assert "You can start once a lead has published one." in for_reviewer

"""Test of creating a project and publishing its guideline."""

import pytest
from playwright.sync_api import expect

from accounts.models import Role
from labeling.models import Project
from labeling.projects.creation import proposed_slug
from tests.labeling.world import make_user

pytestmark = pytest.mark.django_db(transaction=True)

NAME = "Größere  Lampen 2!"


def test_a_lead_creates_a_project_and_publishes_its_guideline(visit):
    proposed = proposed_slug(NAME)
    page = visit("/projects/new/", make_user(Role.LEAD))
    page.get_by_label("Name").fill(NAME)
    expect(page.get_by_label("Address")).to_have_value(proposed)
    page.get_by_role("button", name="Create project").click()
    page.get_by_role("link", name="Write the guideline").click()
    page.locator("#id_text").fill("Say **who** does what.")
    expect(page.locator("[data-preview] strong")).to_have_text("who")
    for name in ("honesty", "brevity", "tone"):
        page.get_by_role("button", name="Add criterion").click()
        page.keyboard.type(name)
        page.keyboard.press("Tab")
        page.keyboard.type(f"It has {name}.")
    page.get_by_role("button", name="Save and publish").click()
    page.get_by_role("button", name="Publish version 1").click()
    expect(page.get_by_text("Version 1 is published.")).to_be_visible()
    project = Project.objects.get(slug=proposed)
    criteria = project.current_version.criteria.values_list("position", "name")
    assert list(criteria) == [(1, "honesty"), (2, "brevity"), (3, "tone")]

"""Test of writing and publishing a guideline, and of reading it while ranking."""

import pytest
from playwright.sync_api import expect

from accounts.models import Role
from labeling.models import Guideline, GuidelineVersion, Membership
from tests.browser.conftest import World
from tests.labeling.world import make_user

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_guideline_is_written_previewed_published_and_read(visit, world: World):
    world.add_task()
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=world.project, user=lead, role=Membership.Role.LEAD)
    page = visit("/admin/labeling/guidelineversion/add/", lead)
    guideline = Guideline.objects.get(project=world.project)
    page.get_by_label("Guideline:").select_option(str(guideline.pk))
    page.locator("#id_text").fill("Say **who** does what, by when.")
    expect(page.locator("[data-preview] strong")).to_have_text("who")
    page.get_by_label("Change note:").fill("The next step counts most.")
    page.get_by_text("Add another Criterion").click()
    page.locator("[id$='-0-name']").fill("next-step")
    page.locator("[id$='-0-meaning']").fill("Who does what, by when.")
    page.get_by_role("button", name="Save and publish").click()
    expect(page.get_by_role("heading", name="Changes since version 1")).to_be_visible()
    page.get_by_role("button", name="Publish version 2").click()
    expect(page.locator(".messagelist")).to_contain_text("is published")

    version = GuidelineVersion.objects.get(number=2, guideline=guideline)
    assert (version.state, version.published_by) == ("published", lead)
    reviewer = visit(world.review, world.reviewer)
    reviewer.get_by_role("button", name="Continue with version 2").click()
    expect(reviewer.locator("#guideline")).to_contain_text("Say who does what, by when.")
    expect(reviewer.locator("#guideline dt")).to_have_text("next-step")

"""Tests of inviting a person, joining, and ending a session on another computer."""

import re

from playwright.sync_api import expect

from accounts.models import User
from labeling.models import Membership
from tests.labeling.world import make_member


def test_an_invited_person_joins_and_ends_a_session_elsewhere(visit, world):
    lead = make_member(world.project, Membership.Role.LEAD)
    members = visit(f"/p/{world.project.slug}/members/", lead)
    form = members.locator("form", has_text="Invite by link")
    form.get_by_label("Project role").select_option("lead")
    form.get_by_role("button", name="Create invitation").click()
    link = members.get_by_label("Link", exact=True).input_value()

    join = visit(re.sub(r"^https?://[^/]+", "", link))
    expect(join.get_by_role("heading", name=f"Invitation to {world.project}")).to_be_visible()
    join.get_by_label("Username").fill("grace")
    join.get_by_label("Password", exact=True).fill("battery staple 7")
    join.get_by_label("Password confirmation").fill("battery staple 7")
    join.get_by_role("button", name="Create account and join").click()
    expect(join.get_by_text(f"You are now a member of {world.project}.")).to_be_visible()
    grace = User.objects.get(username="grace")
    assert grace.memberships.get().role == "lead"

    elsewhere = visit("/profile/", grace)
    join.get_by_role("link", name="grace").click()
    sessions = join.get_by_role("region", name="Sessions")
    expect(sessions.get_by_role("row")).to_have_count(3)
    expect(sessions.get_by_text("Chrome, Linux")).to_be_visible()
    sessions.get_by_role("button", name="End").click()
    expect(sessions.get_by_role("row")).to_have_count(2)
    elsewhere.reload()
    expect(elsewhere.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
    expect(join.get_by_text("This session")).to_be_visible()

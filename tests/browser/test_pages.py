"""Tests of accessibility and layout of all labeling pages, in both themes and at both widths."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from accounts.models import Role
from labeling.models import Membership, Ranking
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.browser.conftest import World
from tests.labeling.world import ids, make_member, make_project, make_task, make_user

pytestmark = pytest.mark.django_db(transaction=True)

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def faults(page: Page) -> list[str]:
    """Return serious and critical accessibility problems, one line each."""
    result = Axe().run(page, options={"runOnly": WCAG}).response["violations"]
    return [
        f"{page.url} {fault['id']}: {fault['help']} {fault['nodes'][0]['html'][:200]}"
        for fault in result
        if fault["impact"] in {"serious", "critical"}
    ]


def faults_in_both_themes(page: Page) -> list[str]:
    found_faults = []
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.evaluate("() => Promise.all(document.getAnimations().map((one) => one.finished))")
        found_faults += [f"{theme} {fault}" for fault in faults(page)]
    return found_faults


@pytest.fixture
def addresses(world: World) -> list[str]:
    """Return the URLs of a lead's pages in a project with a dispute."""
    world.project.rankings_per_task = 2
    world.project.save(update_fields=["rankings_per_task"])
    other = make_member(world.project)
    for number in range(3):
        task = world.add_task()
        for reviewer, order in ((world.reviewer, 1), (other, -1)):
            recording.record(
                task=task,
                reviewer=reviewer,
                source=Ranking.Source.SIMULATION if number else Ranking.Source.REVIEW,
                content=Content(
                    [[i] for i in ids(task)[::order]], cut=2, rationale="It names a day."
                ),
                shown_order=ids(task),
            )
    world.add_task("Short.", "| a | b |\n|---|---|\n| 1 | 2 |\n\n" + "A long line. " * 60)
    base = f"/p/{world.project.slug}/"
    pages = ["", "guideline/", "quality/", "data/", f"data/{task.pk}/", "review/history/"]
    pages += [f"quality/?show={name}" for name in ("reviewers", "parts", "models", "consensus")]
    pages += ["data/import/", "data/export/?form=pairs", "findings/"]
    return ["/", "/projects/", *[base + page for page in pages], "/nowhere/"]


def test_no_page_has_a_serious_accessibility_problem(visit, world, addresses):
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=world.project, user=lead, role=Membership.Role.LEAD)
    page = visit("/", lead)
    problems = []
    for address in addresses:
        page.goto(address)
        problems += faults_in_both_themes(page)
    assert problems == []


def test_the_ranking_page_and_its_dialogs_have_no_serious_accessibility_problem(
    visit, world, addresses
):
    page = visit(world.review, world.reviewer)
    result = faults_in_both_themes(page)
    for keys in (["a", "-", "b", "r"], ["Escape", "?"]):
        for key in keys:
            page.keyboard.press(key)
        result += faults_in_both_themes(page)
    assert result == []


def test_the_sign_in_page_and_the_empty_queue_have_no_serious_accessibility_problem(visit, world):
    result = faults_in_both_themes(visit("/login/"))
    result += faults_in_both_themes(visit(world.review, world.reviewer))
    assert result == []


def test_no_page_scrolls_sideways_on_a_phone(visit, world, addresses):
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=world.project, user=lead, role=Membership.Role.LEAD)
    page = visit("/", lead, viewport={"width": 390, "height": 844}, is_mobile=True)
    wide = []
    for address in [*addresses, world.review]:
        page.goto(address)
        if page.evaluate("document.documentElement.scrollWidth") > 390:
            wide.append(address)
        stacked = ".table-wrap:has(.table-tasks)"
        if page.evaluate(
            "(them) => [...document.querySelectorAll(them)].some((e) => e.scrollWidth > e.clientWidth)",
            stacked,
        ):
            wide.append(f"{address} {stacked}")
    assert wide == []


def test_a_long_username_does_not_widen_a_page(visit, world):
    world.reviewer.username = "a-reviewer-with-a-very-long-username@example.org"
    world.reviewer.save()
    page = visit("/", world.reviewer, viewport={"width": 390, "height": 844}, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    expect(page.get_by_role("button", name="Sign out")).to_be_in_viewport(ratio=1)


def test_the_chosen_theme_is_kept(visit, world):
    page = visit("/", world.reviewer, color_scheme="light")
    assert page.evaluate("document.documentElement.dataset.theme") is None
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    toggle = page.get_by_role("button", name="Theme:")
    toggle.click()
    toggle.click()
    expect(toggle).to_have_accessible_name("Theme: dark")
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_signing_in_shows_errors_next_to_the_form(visit, world):
    world.reviewer.set_password("a bent neck")
    world.reviewer.save()
    page = visit("/p/nowhere/")
    page.get_by_label("Username").fill(world.reviewer.username)
    page.get_by_label("Password").fill("a straight neck")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.locator(".form-errors")).to_contain_text("correct username and password")
    page.get_by_label("Password").fill("a bent neck")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Page not found")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_start_page_leads_a_reviewer_to_tasks(visit, world):
    make_task(make_project())  # someone else's
    world.add_task()
    page = visit("/", world.reviewer)
    page.get_by_role("link", name="Start reviewing").click()
    expect(page.locator(".answer")).to_have_count(4)

"""Tests of disputes with the keyboard, on a phone and without scripts."""

import re

import pytest
from playwright.sync_api import Page, expect

from accounts.models import Role, User
from labeling.core.response_names import page_names
from labeling.disputes.adjudication import decide
from labeling.disputes.relabeling import draw
from labeling.models import Adjudication, Membership, Project, Ranking, Task
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.browser.conftest import World
from tests.browser.test_pages import faults_in_both_themes
from tests.labeling.world import ids, make_member, make_user, publish

pytestmark = pytest.mark.django_db(transaction=True)

RATIONALES = (
    "It names a day and says who pays, which the guideline asks for first.",
    "It is warm. The first two promise a day that the workshop cannot keep.",
)


def make_lead(world: World) -> User:
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=world.project, user=lead, role=Membership.Role.LEAD)
    return lead


def dispute(world: World, turned: int = 4) -> Task:
    """Create two rankings of a task, the second with its last `turned` responses reversed."""
    task = world.add_task()
    order = ids(task)
    other = order[: 4 - turned] + order[4 - turned :][::-1]
    for placed, cut, why in ((order, 3, RATIONALES[0]), (other, None, RATIONALES[1])):
        recording.record(
            task=task,
            reviewer=make_member(world.project),
            source=Ranking.Source.REVIEW,
            content=Content([[i] for i in placed], cut=cut, rationale=why),
        )
    return task


@pytest.fixture
def disputed(world: World) -> list[Task]:
    Project.objects.filter(pk=world.project.pk).update(rankings_per_task=2)
    world.project.refresh_from_db()
    second, first = dispute(world), dispute(world)  # equal disagreement: the newest comes first
    return [first, second]


def address(world: World, task: Task | None = None) -> str:
    return f"/p/{world.project.slug}/disputes/" + (f"{task.pk}/" if task else "")


def order_of(page: Page) -> list[str]:
    return page.locator(".ladder-tier").all_inner_texts()


def test_a_dispute_is_settled_with_the_keyboard_and_the_next_one_follows(visit, world, disputed):
    first, second = disputed
    page = visit(address(world), make_lead(world))
    page.get_by_role("link", name="Decide the first").click()
    expect(page).to_have_url(re.compile(address(world, first)))
    expect(page.locator("#dock")).to_be_visible()
    for key in ("1", "Backspace"):
        page.keyboard.press(key)
    rankings = Ranking.objects.filter(task=first)
    expect(page.locator(".ladder-tier")).to_have_count(4)
    page.keyboard.press("Enter")
    expect(page.locator("#case-status")).to_contain_text("Choose the cause")
    for key in ("r", "1"):
        page.keyboard.press(key)
    page.keyboard.press("n")
    page.keyboard.type("A day is not a promise.")
    page.keyboard.press("Control+Enter")
    expect(page).to_have_url(re.compile(address(world, second)))
    decided = Adjudication.objects.get(task=first)
    assert (decided.cause, decided.note) == ("guideline", "A day is not a promise.")
    assert decided.tiers in [ranking.tiers for ranking in rankings]


def test_an_outcome_with_ties_and_a_line_is_entered_with_the_keyboard(visit, world, disputed):
    task = disputed[0]
    page = visit(address(world, task), make_lead(world))
    ids_by_name = {name: pk for pk, name in page_names(task.pk, ids(task)).items()}
    locator = [
        ids_by_name[name]
        for name in page.locator("[data-response]").evaluate_all(
            "all => all.map(one => one.dataset.response)"
        )
    ]
    for key in ("b", "a", "Shift+C", "-", "d", "z", "d", "ArrowLeft"):
        page.keyboard.press(key)
    page.keyboard.press("ArrowRight")
    for key in ("r", "3", "Escape", "Enter"):
        page.keyboard.press(key)
    expect(page).to_have_url(re.compile(address(world, disputed[1])))
    decided = Adjudication.objects.get(task=task)
    a, b, c, d = locator
    assert decided.tiers == [[b], sorted([a, c], key=locator.index), [d]]
    assert decided.cut == 2
    assert decided.cause == "close"


def test_every_key_that_works_is_listed(visit, world, disputed):
    page = visit(address(world, disputed[0]), make_lead(world))
    page.keyboard.press("?")
    listed = page.locator("#help-dialog kbd").all_inner_texts()
    for key in ("1", "A", "Shift", "←", "→", "-", "⌫", "Z", "R", "N", "↵", "S", "X", "O", "?"):
        assert key in listed
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    expect(page).to_have_url(re.compile(address(world, disputed[1])))


def test_a_dispute_is_settled_without_scripts(visit, world, disputed):
    task = disputed[0]
    page = visit(address(world, task), make_lead(world), java_script_enabled=False)
    page.get_by_role("link", name="Start from this ranking").first.click()
    page.get_by_label("A reviewer did not follow the guideline").check()
    page.get_by_role("button", name="Save decision").click()
    expect(page).to_have_url(re.compile(address(world, disputed[1])))
    assert Adjudication.objects.get(task=task).cause == "mistake"


def test_the_dock_does_not_hide_the_focused_control_on_a_phone(visit, world, disputed):
    phone = {"width": 390, "height": 844}
    page = visit(address(world, disputed[0]), make_lead(world), viewport=phone)
    expect(page.locator("#dock")).to_be_visible()
    hidden = []
    for _ in range(40):
        page.keyboard.press("Tab")
        hidden += page.evaluate(
            """() => {
                const top = document.querySelector("#dock").getBoundingClientRect().top;
                const control = document.activeElement;
                const covered = control.closest(".case") && !control.closest("#dock")
                    && control.getBoundingClientRect().top >= top;
                return covered ? [control.outerHTML.slice(0, 80)] : [];
            }"""
        )
    assert hidden == []


def test_the_page_is_accessible_and_fits_a_phone(visit, world, disputed):
    lead = make_lead(world)
    base = f"/p/{world.project.slug}/"
    publish(world.project, "Be kind. Name no day that cannot be kept.")
    draw(project=world.project, size=1, by=lead)
    Project.objects.filter(pk=world.project.pk).update(sees_models="after", sees_others="after")
    page = visit(address(world, disputed[0]), lead)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")  # where the dock hides nothing
    faults = faults_in_both_themes(page)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    faults += faults_in_both_themes(page)
    page.keyboard.press("?")
    faults += faults_in_both_themes(page)
    phone = visit("/", lead, viewport={"width": 390, "height": 844}, is_mobile=True)
    decided, wide = disputed[1], []
    decide(task=decided, by=lead, tiers=[[i] for i in ids(decided)], cause="guideline")
    for item in (address(world), f"{base}settings/", f"{base}relabel/", f"{base}quality/"):
        page.goto(base + item.removeprefix(base))
        faults += faults_in_both_themes(page)
    for item in (
        address(world),
        f"{address(world)}?show=decided",
        address(world, disputed[0]),
        f"{base}data/{decided.pk}/",
        f"{base}settings/",
        f"{base}relabel/",
    ):
        phone.goto(item)
        if phone.evaluate("document.documentElement.scrollWidth") > 390:
            wide.append(item)
    assert (faults, wide) == ([], [])


def test_a_reviewer_reads_other_rankings_after_ranking(visit, world, disputed):
    Project.objects.filter(pk=world.project.pk).update(sees_others="after")
    own = disputed[0].rankings.first()
    page = visit(f"/p/{world.project.slug}/review/history/", own.reviewer)
    page.get_by_role("link", name="Other rankings").first.click()
    expect(page.get_by_text("Reviewer 1")).to_be_visible()
    assert faults_in_both_themes(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280

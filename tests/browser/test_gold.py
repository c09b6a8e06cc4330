"""Tests of qualification, training and gold questions in a browser."""

import re

import pytest
from playwright.sync_api import Page, expect

from accounts.models import Role
from labeling.gold import making
from labeling.models import Gold, Membership, Qualification, Ranking, Slot
from labeling.reviewing import assignment
from labeling.reviewing.progress import of_reviewer
from tests.browser.conftest import World
from tests.browser.reviewing.desk import next_is_ready, press, slot_shown
from tests.browser.test_pages import faults_in_both_themes
from tests.labeling.world import ids, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def add_gold(world: World, purpose: str, explanation: str = "") -> Gold:
    """Add a gold question: the first response is best and the last one unacceptable."""
    task = world.add_task()
    first, *others = ids(task)
    constraints = [{"kind": "above", "a": first, "b": other} for other in others]
    constraints.append({"kind": "unacceptable", "a": others[-1]})
    return making.make(task=task, constraints=constraints, purpose=purpose, explanation=explanation)


def rank(page: Page, *, right: bool = True) -> None:
    """Submit the right ranking, which is the task's own order."""
    slot = Slot.objects.get(pk=slot_shown(page))
    letters = dict(zip(slot.shown_order or [], "abcd", strict=True))
    order = [letters[response] for response in ids(slot.task)]
    keys = order if right else order[::-1]
    press(page, *keys[:3], "-", keys[3], "Enter")


def set_policy(world: World, **fields: int) -> None:
    for name, value in fields.items():
        setattr(world.project, name, value)
    world.project.save(update_fields=list(fields))


def test_a_reviewer_qualifies_and_continues_with_real_tasks(visit, world):
    set_policy(world, qualification_percent=100)
    for _ in range(2):
        add_gold(world, "qualification")
    world.add_task()
    page = visit(world.review, world.reviewer)
    expect(page.locator(".stage-note")).to_contain_text("Qualification, task 1 of 2.")
    assert faults_in_both_themes(page) == []
    rank(page)
    expect(page.locator(".stage-note")).to_contain_text("task 2 of 2.")
    rank(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Qualification passed")
    assert faults_in_both_themes(page) == []
    page.locator("#go-on").click()
    expect(page.locator("#ranking-form")).to_be_visible()
    expect(page.locator(".stage-note")).to_have_count(0)
    assert Qualification.objects.get().state == "passed"
    assert Slot.objects.get(pk=slot_shown(page)).task.kind == "ranking"


def test_a_reviewer_who_fails_is_told_the_next_step(visit, world):
    set_policy(world, qualification_percent=100)
    add_gold(world, "qualification")
    world.add_task()
    page = visit(world.review, world.reviewer)
    expect(page.locator(".stage-note")).to_be_visible()
    rank(page, right=False)
    expect(page.get_by_role("heading", level=1)).to_have_text("Qualification not passed")
    expect(page.locator(".empty")).to_contain_text("0 of 1")
    expect(page.locator(".empty")).to_contain_text("ask a lead")
    assert faults_in_both_themes(page) == []
    page.goto(world.review)
    expect(page.locator("#ranking-form")).to_have_count(0)


def test_a_reviewer_in_training_sees_the_right_answer_after_each_task(visit, world):
    add_gold(world, "training", "The first one **names a day**.")
    add_gold(world, "training")
    world.add_task()
    page = visit(world.review, world.reviewer)
    expect(page.locator(".stage-note")).to_contain_text("Training, task 1 of 2.")
    rank(page, right=False)
    expect(page.get_by_role("heading", level=1)).to_have_text("Not quite")
    expect(page.locator(".gold-broken")).to_have_count(4)
    expect(page.locator(".prose strong", has_text="names a day")).to_be_visible()
    assert faults_in_both_themes(page) == []
    page.get_by_role("link", name="Next training task").click()
    expect(page.locator(".stage-note")).to_contain_text("Training, task 2 of 2.")
    rank(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Correct")
    page.get_by_role("link", name="Continue to real tasks").click()
    expect(page.locator("#ranking-form")).to_be_visible()
    expect(page.locator(".stage-note")).to_have_count(0)
    assert Ranking.objects.filter(task__kind="ranking").count() == 0


def test_gold_tasks_look_like_other_tasks(visit, world):
    """Compare the sheet's elements, classes and attributes, and the number of tasks left."""
    set_policy(world, gold_percent=50)
    for _ in range(4):
        add_gold(world, "check")
        world.add_task()
    total = assignment_length(world)
    page = visit(world.review, world.reviewer)
    shapes: dict[str, set[str]] = {}
    for number in range(6):
        slot = Slot.objects.select_related("task").get(pk=slot_shown(page))
        expect(page.locator("#review-progress")).to_contain_text(f"{total - number} left")
        next_is_ready(page)
        if number:  # the first came with the page, the others were leased ahead
            shapes.setdefault(slot.task.kind, set()).add(shape(page))
        rank(page)
        expect(page.locator("#ranking-form")).not_to_have_attribute("data-slot", str(slot.pk))
    assert set(shapes) == {"gold", "ranking"}
    assert (
        shapes["gold"] & shapes["ranking"]
    )  # test_pages_gold compares exactly; here, scripts change the page


def assignment_length(world: World) -> int:
    """Return the number of tasks left for the reviewer, according to the page."""
    assignment.current(project=world.project, reviewer=world.reviewer)
    return of_reviewer(world.project, world.reviewer).waiting


def shape(page: Page) -> str:
    """Return the sheet's markup without texts and numbers."""
    html = page.evaluate(
        """() => {
            const sheet = document.getElementById("ranking-form").cloneNode(true);
            for (const one of sheet.querySelectorAll("output, .review-progress, .prose, .dock")) one.textContent = "";
            for (const name of ["next", "sent", "draftAt"]) delete sheet.dataset[name];
            return sheet.outerHTML;
        }"""
    )
    html = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "KEY", html)
    html = re.sub(r"\br[0-9a-f]{16}\b", "RESPONSE", html)  # keyed by task: see response_names
    html = re.sub(r'csrfmiddlewaretoken" value="[^"]*"', "", html)
    return re.sub(r"\d+(\.\d+)?", "N", html)


def test_a_lead_makes_gold_from_a_ranked_task(visit, world):
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=world.project, user=lead, role=Membership.Role.LEAD)
    task = world.add_task()
    visited = visit(world.review, world.reviewer)
    rank(visited)
    expect(visited.locator(".empty")).to_be_visible()
    page = visit(f"/p/{world.project.slug}/data/{task.pk}/", lead)
    page.get_by_role("link", name="Make gold").click()
    page.get_by_role("link", name="Use", exact=True).click()
    expect(page.get_by_label("Row 1: response")).to_have_value(str(ids(task)[0]))
    assert faults_in_both_themes(page) == []
    page.get_by_role("button", name="Add rows").click()
    expect(page.get_by_label("Row 1: response")).to_have_value(str(ids(task)[0]))
    page.get_by_label("Training, with feedback").check()
    page.get_by_role("button", name="Make gold").click()
    expect(page.get_by_role("heading", name=re.compile(r"^Gold \d+$"))).to_be_visible()
    assert faults_in_both_themes(page) == []
    item = Gold.objects.get()
    assert item.purpose == "training" and len(item.constraints) == 4
    page.goto(f"/p/{world.project.slug}/gold/")
    assert faults_in_both_themes(page) == []
    page.get_by_role("link", name=f"#{item.pk}").click()
    page.get_by_role("button", name="Retire").click()
    expect(page.get_by_text("retired", exact=False).first).to_be_visible()

"""Tests of accessibility on the ranking page, and of the counted time."""

import re

import pytest
from playwright.sync_api import Page, expect

from labeling.models import Project, Ranking
from tests.browser.conftest import World
from tests.browser.reviewing.desk import next_is_ready, press, sent
from tests.browser.test_pages import faults_in_both_themes
from tests.labeling.world import publish

pytestmark = pytest.mark.django_db(transaction=True)

SIZES = {
    "desk": {"viewport": {"width": 1440, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
SHOWN_AS = {"ArrowLeft": "←", "ArrowRight": "→", "Backspace": "⌫", "Delete": "Del", "Enter": "↵"}


def test_every_key_is_listed_and_every_listed_key_does_something(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    keys = page.evaluate("() => import('/static/js/review/keys.js').then((one) => one.KEYS)")
    press(page, "?")
    listed = page.locator("#keys [data-verb]").evaluate_all(
        "rows => rows.map(row => [row.dataset.verb, [...row.querySelectorAll('dt kbd')]"
        ".map(kbd => kbd.textContent)])"
    )
    rows = {verb: shown for verbs, shown in listed for verb in verbs.split()}
    for verb, pressed in keys.items():
        for key in pressed:
            assert SHOWN_AS.get(key, key.upper()) in rows[verb], (verb, key)
    assert set(rows) - set(keys) == {"pick", "grade", "tieWith"}
    assert page.locator("#keys [data-verb]:not(:has(dd))").count() == 0


def announced(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.locator("#announcer")).to_have_text(text)


def test_changes_are_announced_to_screen_readers(visit, world):
    world.add_task()
    world.add_task()
    page = visit(world.review, world.reviewer)
    region = page.locator("#announcer")
    assert region.get_attribute("aria-live") == "polite"
    next_is_ready(page)
    press(page, "b")
    announced(page, "B is first.")
    press(page, "Shift+A")
    announced(page, "A is first, tied with B.")
    press(page, "-")
    announced(page, "Responses you place next are unacceptable.")
    press(page, "c")
    announced(page, "C is second, unacceptable.")
    press(page, "=")
    announced(page, "The next response ties with C.")
    press(page, "d")
    announced(page, "D is second, tied with C, unacceptable. All placed: Enter submits.")
    press(page, "z")
    announced(page, "Undone.")
    press(page, "Enter")
    announced(page, "Not sent yet: D is not placed. Place every response.")
    press(page, "d", "Enter")
    announced(page, "Sent; press Z to undo. The next task is here.")
    expect(page.locator("#main")).to_be_focused()


def test_a_responses_button_names_its_rank(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "c", "Shift+A")
    expect(page.get_by_role("button", name="Select: C is first, tied with A.")).to_be_visible()
    expect(page.get_by_role("button", name="Place B next")).to_have_count(1)
    expect(page.get_by_role("listitem", name="Rank 1, tied")).to_have_count(1)


@pytest.mark.parametrize("size", SIZES)
def test_the_sheet_has_no_serious_accessibility_problem(visit, world, size):
    world.add_task()
    world.add_task("Sorry, we mend it.", "No.")
    page = visit(world.review, world.reviewer, **SIZES[size])
    next_is_ready(page)
    faults = faults_in_both_themes(page)
    press(page, "a", "Shift+B", "-", "c", "r", "4")
    faults += faults_in_both_themes(page)
    press(page, "Escape", "?")
    faults += faults_in_both_themes(page)
    press(page, "Escape", "x")
    faults += faults_in_both_themes(page)
    press(page, "Escape", "d")
    page.context.set_offline(True)
    press(page, "s")  # continue with the pair, with an unsent ranking
    expect(page.locator("#outbox-note")).to_be_visible()
    press(page, "2")
    faults += faults_in_both_themes(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults == []


@pytest.mark.parametrize("size", SIZES)
def test_the_question_a_refusal_and_the_history_have_no_serious_accessibility_problem(
    visit, world, size
):
    world.add_task()
    page = visit(world.review, world.reviewer, **SIZES[size])
    press(page, "a", "b", "c", "d")
    for letter, grade in (("A", "2"), ("B", "5")):
        card = page.locator(f".answer[data-letter={letter}]")
        card.locator(".answer-extras summary").click()
        card.locator(".rating-scale label", has_text=re.compile(f"^{grade}$")).click()
    press(page, "s")
    expect(page.locator("#ask-dialog")).to_be_visible()
    faults = faults_in_both_themes(page)
    Project.objects.update(min_rationale=10)
    press(page, "Enter")
    expect(page.locator("#errors")).to_be_visible()
    faults += faults_in_both_themes(page)
    page.get_by_label("Why this order?").fill("It names a day.")
    press(page, "Control+Enter")
    sent(page, world, 1)
    faults += faults_in_both_themes(page)
    page.goto(f"/p/{world.project.slug}/review/history/")
    faults += faults_in_both_themes(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults == []


@pytest.mark.parametrize("size", SIZES)
def test_confirming_a_guideline_has_no_serious_accessibility_problem(visit, world, size):
    publish(world.project, "Be kind and brief.\n\n- Name a day.\n- Say sorry.")
    page = visit(world.review, world.reviewer, **SIZES[size])
    expect(page.get_by_role("heading", name="The guideline changed")).to_be_visible()
    assert faults_in_both_themes(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# --- time ----------------------------------------------------------------------------------------


def seconds(page: Page) -> float:
    return float(page.locator("[name=active_seconds]").input_value())


@pytest.fixture
def timed(visit, world: World) -> Page:
    """Open the page with a fake clock."""
    world.add_task(*["A long answer. " * 400] * 3)
    world.add_task()
    page = visit("/", world.reviewer)
    page.clock.install()
    page.goto(world.review)
    next_is_ready(page)
    return page


def test_reading_time_counts_and_idle_time_does_not(timed):
    timed.mouse.move(200, 300)
    timed.clock.run_for(30_000)
    begun = seconds(timed)
    assert 25 <= begun <= 32
    timed.clock.run_for(300_000)  # without activity, at most one more minute counts
    idle = seconds(timed)
    assert begun < idle <= 62
    expect(timed.locator("#active-time")).to_have_attribute("data-running", "false")
    timed.mouse.wheel(0, 300)
    timed.wait_for_function("() => scrollY > 0")
    timed.clock.run_for(20_000)
    assert idle + 15 <= seconds(timed) <= idle + 25
    expect(timed.locator("#active-time")).to_have_attribute("data-running", "true")


def test_a_hidden_page_does_not_count(timed):
    timed.mouse.move(200, 300)
    timed.evaluate(
        "() => { Object.defineProperty(document, 'visibilityState', { get: () => window.seen });"
        " window.seen = 'hidden'; document.dispatchEvent(new Event('visibilitychange')); }"
    )
    hidden = seconds(timed)
    timed.clock.run_for(30_000)
    assert seconds(timed) <= hidden + 2
    timed.evaluate(
        "() => { window.seen = 'visible'; document.dispatchEvent(new Event('visibilitychange')); }"
    )
    timed.mouse.move(210, 310)
    timed.clock.run_for(10_000)
    assert seconds(timed) >= hidden + 8


def test_the_time_of_a_prefetched_sheet_counts_from_its_display(timed, world):
    timed.mouse.move(200, 300)
    timed.clock.run_for(30_000)
    press(timed, "a", "b", "c", "Enter")
    assert sent(timed, world, 1).active_seconds >= 25
    assert seconds(timed) <= 2
    expect(timed.locator("#active-time")).to_have_text(re.compile("0:0[0-2]"))


def test_the_remaining_time_is_estimated_from_the_reviewers_pace(visit, world):
    for _ in range(3):
        task = world.add_task()
        Ranking.objects.create(
            task=task, reviewer=world.reviewer, tiers=[], active_seconds=90, source="review"
        )
        task.slots.all().delete()
    world.add_task()
    world.add_task()
    page = visit(world.review, world.reviewer)
    expect(page.locator("#review-progress")).to_contain_text("2 left · about 3 min at your pace")

"""Tests of a reviewer's first minutes, on a phone and at 200% zoom."""

import pytest
from playwright.sync_api import Page, expect

from labeling.models import Adjudication
from tests.browser.reviewing.desk import press, sent
from tests.browser.test_disputes import dispute, make_lead
from tests.browser.test_pages import faults_in_both_themes

pytestmark = pytest.mark.django_db(transaction=True)

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
ZOOMED = {"viewport": {"width": 640, "height": 400}}
PROMPT = "My goose lamp has a bent neck. " * 10
LONG = "We are sorry about the lamp, and send a new one. " * 20


def height(page: Page, selector: str) -> float:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["height"]


def test_a_hint_explains_ranking_until_it_is_dismissed_or_followed(visit, world):
    world.add_task()
    world.add_task()
    page = visit(world.review, world.reviewer)
    hint = page.locator("#first-hint")
    expect(hint).to_contain_text("Press the letters of the responses from best to worst")
    hint.get_by_role("button", name="Got it").click()
    expect(hint).to_be_hidden()
    page.reload()
    expect(hint).to_be_hidden()
    press(page, "a", "b", "c", "d", "Enter")
    sent(page, world, 1)
    other = visit(world.review, world.reviewer)  # another browser of an experienced reviewer
    expect(other.locator(".answer")).to_have_count(4)
    expect(other.locator("#first-hint")).to_be_hidden()


def test_an_unplaced_response_shows_that_it_can_be_placed(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    locator = page.get_by_role("button", name="Place A next")
    assert locator.evaluate("one => getComputedStyle(one).opacity") == "1"
    shown = "one => getComputedStyle(one.querySelector('.answer-hint'), '::before').content"
    assert locator.evaluate(shown) == '"place next"'


def test_a_phone_shows_no_keys(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer, **PHONE)
    expect(page.locator("#first-hint .with-touch")).to_be_visible()
    expect(page.locator("#first-hint .with-keys")).to_be_hidden()
    for letter in "ABCD":
        page.locator(f".answer[data-letter={letter}] .answer-place").tap()
    expect(page.locator("#review-status")).to_contain_text("All placed: ready to submit.")
    page.get_by_role("button", name="Submit").tap()
    sent(page, world, 1)


def test_a_dispute_is_settled_on_a_phone_with_a_tie_and_a_low_dock(visit, world):
    task = dispute(world)
    page = visit(f"/p/{world.project.slug}/disputes/{task.pk}/", make_lead(world), **PHONE)
    assert height(page, "#dock") < 844 / 3
    page.locator(".answer[data-letter=A] .answer-place").tap()
    page.get_by_role("button", name="Tie", exact=False).first.tap()
    expect(page.locator("#case-status")).to_have_text("The next response ties with A.")
    for letter in "BCD":
        page.locator(f".answer[data-letter={letter}] .answer-place").tap()
    expect(page.locator("#case-status")).not_to_contain_text("R, then")
    page.locator("[name=cause]").first.check()
    expect(page.locator("#case-status")).to_have_text("Ready to save.")
    page.get_by_role("button", name="Save decision").last.tap()
    expect(page.locator(".empty, .messages").first).to_be_visible()
    assert [len(tier) for tier in Adjudication.objects.get().tiers] == [2, 1, 1]


def test_tabs_that_overflow_show_a_hint_and_the_open_one(visit, world):
    lead = make_lead(world)
    page = visit(f"/p/{world.project.slug}/settings/", lead, **PHONE)
    tabs = page.locator(".subnav")
    assert tabs.evaluate("one => one.scrollWidth > one.clientWidth")
    attachments = tabs.evaluate("one => getComputedStyle(one).backgroundAttachment")
    assert attachments == "local, local, scroll, scroll"
    expect(tabs.locator("[aria-current]")).to_be_in_viewport(ratio=0.9)


@pytest.mark.parametrize("language", ["en-GB", "de-DE"])
def test_a_response_is_visible_at_200_percent_zoom(visit, world, language):
    world.add_task(LONG, LONG, LONG, prompt=PROMPT)
    page = visit(world.review, world.reviewer, locale=language, **ZOOMED)
    expect(page.locator("#dock")).to_be_visible()
    assert page.evaluate("scrollY") == 0
    text = page.locator(".answer-body").first.bounding_box()
    dock = page.locator("#dock").bounding_box()
    assert text is not None and dock is not None
    assert dock["y"] - text["y"] >= 30  # at least one line
    expect(page.locator("[data-do=submit]")).to_be_in_viewport(ratio=0.9)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults_in_both_themes(page) == []

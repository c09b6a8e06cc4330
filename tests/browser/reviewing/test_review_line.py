"""Tests of the line below which responses are unacceptable."""

import pytest
from playwright.sync_api import expect

from labeling.models import Adjudication
from tests.browser.reviewing.desk import press, sent
from tests.browser.test_disputes import dispute, make_lead

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_line_drawn_when_all_are_placed_makes_the_last_one_unacceptable(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "c", "a", "d", "b", "-")
    expect(page.locator("#line-words")).to_have_text("Unacceptable: B.")
    expect(page.locator(".answer[data-unacceptable=yes]")).to_have_count(1)
    press(page, "ArrowLeft")
    expect(page.locator("#line-words")).to_have_text("Unacceptable: B and D.")
    press(page, "-")
    expect(page.locator("#line-words")).to_have_text("")
    page.get_by_role("button", name="Line").click()
    press(page, "Enter")
    assert sent(page, world, 1).cut == 3


def test_a_line_below_all_responses_accepts_them_all(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "c", "d", "-", "ArrowRight")
    expect(page.locator("#line-words")).to_have_text("Nothing is unacceptable.")
    press(page, "Enter")
    assert sent(page, world, 1).cut == 4


def test_a_line_under_a_selected_response_stays_there(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "-")
    expect(page.locator("#line-words")).to_have_text("Responses you place next are unacceptable.")
    press(page, "c", "d", "a", "-")
    expect(page.locator("#line-words")).to_have_text("Unacceptable: B, C and D.")
    press(page, "Enter")
    assert sent(page, world, 1).cut == 1


def test_a_line_with_all_responses_tied_makes_them_all_unacceptable(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "Shift+B", "Shift+C", "Shift+D", "-")
    expect(page.locator("#line-words")).to_have_text("Unacceptable: A, B, C and D.")
    press(page, "Enter")
    assert sent(page, world, 1).cut == 0


def test_the_line_of_an_outcome_can_be_above_the_last_tier(visit, world):
    task = dispute(world)
    page = visit(f"/p/{world.project.slug}/disputes/{task.pk}/", make_lead(world))
    press(page, "a", "b", "c", "d", "-")
    expect(page.locator("#line-words")).to_have_text("Unacceptable: D.")
    press(page, "r", "1", "Escape", "Enter")
    expect(page.locator(".empty, .messages").first).to_be_visible()
    assert Adjudication.objects.get().cut == 3

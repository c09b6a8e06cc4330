"""Tests of the exact view of texts, character by character."""

import pytest
from playwright.sync_api import expect

from labeling.models import Prompt
from tests.browser.reviewing.desk import next_is_ready, press
from tests.browser.test_disputes import dispute, make_lead

pytestmark = pytest.mark.django_db(transaction=True)

SOURCE = "**Bold** and \\(x\\)  \n# Title\n\n[1]: https://ok.example"


def body(page, letter="A"):
    return page.locator(f".answer[data-letter={letter}] .answer-body")


def test_one_key_toggles_the_exact_view(visit, world):
    world.add_task(SOURCE, SOURCE, prompt="*Why?*")
    world.add_task(SOURCE, SOURCE)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    expect(body(page)).to_contain_text("\\(x\\)")
    expect(body(page)).to_contain_text("[1]: https://ok.example")
    expect(body(page).locator("strong")).to_have_text("Bold")
    formatted = body(page).inner_html()
    press(page, "w")
    assert body(page).text_content() == SOURCE
    assert body(page, "B").text_content() == SOURCE
    expect(page.locator(".prompt .reading")).to_contain_text("*Why?*")
    expect(page.get_by_role("button", name="Exact text")).to_have_attribute("aria-pressed", "true")
    press(page, "m", "m")  # differences compare the view shown, and clearing them restores it
    press(page, "1", "Enter")
    assert body(page).text_content() == SOURCE  # the next sheet too
    page.get_by_role("button", name="Exact text").click()
    assert body(page).inner_html() == formatted


def test_the_exact_view_works_without_scripts(visit, world):
    world.add_task(SOURCE, SOURCE)
    page = visit(world.review, world.reviewer, java_script_enabled=False)
    page.locator(".answer summary", has_text="Exact text").first.click()
    expect(page.locator(".answer .exact-text").first).to_be_visible()
    assert page.locator(".answer .exact-text").first.text_content() == SOURCE


def test_a_lead_sees_the_exact_text_of_a_dispute(visit, world):
    task = dispute(world)
    Prompt.objects.filter(pk=task.prompt_id).update(messages=[{"role": "user", "content": SOURCE}])
    page = visit(f"/p/{world.project.slug}/disputes/{task.pk}/", make_lead(world))
    press(page, "w")
    assert page.locator(".prompt .reading").text_content() == SOURCE
    press(page, "w")
    expect(page.locator(".prompt .reading strong")).to_have_text("Bold")


def test_an_empty_response_is_labelled_as_empty(visit, world):
    world.add_task("", " \n ", "x")
    page = visit(world.review, world.reviewer)
    expect(page.locator(".answer-body", has_text="(empty)")).to_have_count(2)

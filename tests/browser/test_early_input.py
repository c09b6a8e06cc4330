"""Tests of pages on which someone types before the script starts, or to which someone returns."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Dialog, Page, Route, expect

from accounts.models import Role
from labeling.models import Membership, Slot
from labeling.projects.creation import proposed_slug
from tests.browser.conftest import World
from tests.browser.reviewing.desk import press
from tests.labeling.world import make_user

pytestmark = pytest.mark.django_db(transaction=True)

TEXT = "Say **who** does what."
RATIONALE = "B names the person."


@contextmanager
def delayed(page: Page, script: str) -> Iterator[None]:
    """Deliver this script only after the block, in which a page must have requested it."""
    requests: list[Route] = []
    pattern = f"**/{script}"
    page.route(pattern, lambda route: requests.append(route))
    yield
    assert requests
    for request in requests:
        request.continue_()
    page.unroute(pattern)
    page.wait_for_load_state()


def open_early(page: Page, address: str) -> None:
    page.goto(address, wait_until="commit")


@pytest.fixture
def editor(world: World) -> str:
    return f"/p/{world.project.slug}/guideline/edit/"


@pytest.fixture
def lead(world: World):
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=world.project, user=lead, role=Membership.Role.LEAD)
    return lead


def test_a_guideline_typed_before_the_script_starts_is_previewed(visit, lead, editor):
    page = visit("/", lead)
    with delayed(page, "editor.js"):
        open_early(page, editor)
        page.locator("#id_text").fill(TEXT)
    expect(page.locator("[data-preview] strong")).to_have_text("who")


def leave(page: Page) -> list[str]:
    """Leave the editor, and return the questions that the browser asked."""
    questions: list[str] = []

    def accept(dialog: Dialog) -> None:
        questions.append(dialog.type)
        dialog.accept()

    page.on("dialog", accept)
    page.get_by_role("link", name="Cancel").click()
    page.wait_for_url("**/guideline/")
    page.remove_listener("dialog", accept)
    return questions


def test_unsaved_text_is_previewed_and_guarded_after_going_back(visit, lead, editor):
    page = visit(editor, lead)
    page.locator("#id_text").fill(TEXT)
    assert leave(page) == ["beforeunload"]
    page.go_back()
    expect(page.locator("#id_text")).to_have_value(TEXT)
    expect(page.locator("[data-preview] strong")).to_have_text("who")
    assert leave(page) == ["beforeunload"]


def test_an_unchanged_guideline_can_be_left_without_a_question(visit, lead, editor):
    page = visit(editor, lead)
    page.locator("#id_text").press("End")
    assert leave(page) == []


def test_a_guideline_that_the_server_refused_is_guarded(visit, lead, editor):
    page = visit(editor, lead)
    page.locator("#id_text").fill(TEXT)
    page.locator(".criterion").last.get_by_label("Name").fill("two words")
    page.get_by_role("button", name="Save draft").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was saved.")
    page.wait_for_load_state()
    assert leave(page) == ["beforeunload"]


def test_a_name_typed_before_the_script_starts_proposes_an_address(visit):
    page = visit("/", make_user(Role.LEAD))
    with delayed(page, "slug.js"):
        open_early(page, "/projects/new/")
        page.get_by_label("Name").fill("Desk lamps")
    expect(page.get_by_label("Address")).to_have_value(proposed_slug("Desk lamps"))


@pytest.mark.parametrize("address", ["", "my-own"])
def test_the_address_is_proposed_after_going_back_unless_it_was_typed(visit, address):
    page = visit("/projects/new/", make_user(Role.LEAD))
    page.get_by_label("Name").fill("Desk lamps")
    page.get_by_label("Address").fill(address)
    page.get_by_role("link", name="Cancel").click()
    page.wait_for_url("**/projects/")
    page.go_back()
    expect(page.get_by_label("Name")).to_have_value("Desk lamps")
    expect(page.get_by_label("Address")).to_have_value(address or "desk-lamps")


def test_a_ranking_entered_before_the_script_starts_is_shown_and_saved(visit, world):
    world.add_task()
    page = visit("/", world.reviewer)
    with page.expect_response("**/draft/"), delayed(page, "review.js"):
        open_early(page, world.review)
        page.get_by_label("Rank of response B").select_option("1")
        page.get_by_label("Rank of response A").select_option("2")
        page.locator("#rationale").fill(RATIONALE)
    expect(page.locator("#ladder .ladder-tier")).to_have_text(["1B", "2A"])
    assert Slot.objects.get().draft["fields"]["rationale"] == [RATIONALE]


def test_text_typed_before_the_script_starts_takes_precedence_over_the_draft(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "c")
    page.locator("#rationale").fill("An older reason.")
    page.route("**/draft/", lambda route: route.abort())  # the draft stays in the browser
    with delayed(page, "review.js"):
        open_early(page, world.review)
        page.locator("#rationale").fill(RATIONALE)
    expect(page.locator("#rationale")).to_have_value(RATIONALE)
    expect(page.locator("#ladder .ladder-tier")).to_have_text(["1C"])


def test_a_rationale_typed_before_the_script_starts_is_checked(visit, world):
    world.add_task()
    page = visit("/", world.reviewer)
    with delayed(page, "review.js"):
        open_early(page, world.review)
        page.locator("#rationale").fill("x" * 20_001)
    expect(page.locator("#rationale-error")).to_contain_text("20,001".replace(",", ""))


def test_a_note_typed_before_the_script_starts_stays_in_the_skip_dialog(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "x")
    dialog = page.locator("#skip-dialog")
    dialog.get_by_label("Something else").check()
    dialog.get_by_label("Note").fill("x" * 501)
    with delayed(page, "review.js"):
        dialog.get_by_role("button", name="Skip task").click()  # the server refuses the note
        expect(dialog.locator(".errorlist")).to_be_visible()
        dialog.get_by_label("Note").fill("A shorter note.")
    expect(dialog.get_by_label("Note")).to_have_value("A shorter note.")


def test_going_back_keeps_the_choice_about_shortcuts(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "?")
    page.locator("#keys-off").check()
    page.locator("#keys-off").uncheck()
    page.goto("/account/")
    page.evaluate("localStorage.setItem('tiebreak-keys-off', '1')")  # in another tab
    page.go_back()
    expect(page.locator("#keys-off")).to_be_checked()

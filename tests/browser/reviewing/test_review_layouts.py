"""Tests of shortcuts on keyboards without Latin letters and with other Latin layouts."""

import pytest
from playwright.sync_api import Page, expect

from accounts.models import Role
from labeling.models import Adjudication, Membership, Ranking
from tests.browser.reviewing.desk import in_letters, press, sent
from tests.browser.test_disputes import dispute
from tests.labeling.world import make_user

pytestmark = pytest.mark.django_db(transaction=True)


def strike(page: Page, *keys: tuple[str, str], shift: bool = False) -> None:
    """Press keys as a layout reports them: the character of a key, and its position."""
    for key, code in keys:
        page.evaluate(
            """([key, code, shiftKey]) => (document.activeElement ?? document.body).dispatchEvent(
                new KeyboardEvent("keydown", { key, code, shiftKey, bubbles: true, cancelable: true }))""",
            [key, code, shift],
        )


@pytest.mark.parametrize(
    "keys",
    [
        [("и", "KeyB"), ("ф", "KeyA"), ("С", "KeyC"), ("в", "KeyD")],
        [("β", "KeyB"), ("α", "KeyA"), ("Ψ", "KeyC"), ("δ", "KeyD")],
        [("נ", "KeyB"), ("ש", "KeyA"), ("ב", "KeyC"), ("ג", "KeyD")],
        [("\u0e34", "KeyB"), ("ฟ", "KeyA"), ("ฉ", "KeyC"), ("ก", "KeyD")],
    ],
    ids=["Russian", "Greek", "Hebrew", "Thai"],
)
def test_letters_use_key_positions_on_layouts_without_latin_letters(visit, world, keys):
    world.add_task()
    page = visit(world.review, world.reviewer)
    for key, code in keys:
        strike(page, (key, code), shift=key == "С" or key == "Ψ")
    tied = keys[2][0] in ("С", "Ψ")
    strike(page, ("ы", "KeyS"))
    ranking = sent(page, world, 1)
    assert in_letters(ranking) == (["B", "AC", "D"] if tied else ["B", "A", "C", "D"])


def test_signs_and_undo_use_key_positions_once_the_layout_is_known(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    strike(page, ("ש", "KeyA"), ("נ", "KeyB"))
    strike(page, ("ז", "KeyZ"))  # undo
    expect(page.locator("#review-status")).to_have_text("Undone.")
    strike(page, ("ข", "Minus"))
    expect(page.locator(".chip-line")).to_be_visible()
    strike(page, ("؟", "Slash"))
    expect(page.locator("#help-dialog")).to_be_visible()
    expect(page.locator("#help-dialog")).to_contain_text("shortcuts follow key positions")


def test_latin_layouts_use_the_letter_on_the_key(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    strike(page, ("a", "KeyQ"))  # AZERTY
    expect(page.locator(".ladder-tier")).to_have_text("1A")
    strike(page, (".", "KeyE"), ("'", "KeyQ"), ("ß", "Minus"), ("ü", "BracketLeft"), (",", "KeyM"))
    expect(page.locator(".ladder-tier")).to_have_text("1A")
    expect(page.locator(".chip-line")).to_have_count(0)
    expect(page.locator(".compare")).to_have_count(0)


def test_rating_digits_use_key_positions(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "c", "d", "r")
    strike(page, ("é", "Digit2"))
    press(page, "Escape", "Enter")
    sent(page, world, 1)
    assert [list(rated.values()) for rated in Ranking.objects.get().ratings.values()] == [[2]]


def test_z_reopens_the_last_ranking_when_no_task_is_left(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.get_by_text("No tasks left")).to_be_visible()
    expect(page.get_by_role("button", name="Undo last")).to_be_visible()
    page.wait_for_load_state("networkidle")
    strike(page, ("я", "KeyZ"))
    expect(page.locator("#ranking-form")).to_be_visible()


def test_a_dispute_is_settled_on_a_russian_keyboard(visit, world):
    task = dispute(world)
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=world.project, user=lead, role=Membership.Role.LEAD)
    page = visit(f"/p/{world.project.slug}/disputes/{task.pk}/", lead)
    strike(page, ("и", "KeyB"), ("ф", "KeyA"), ("с", "KeyC"), ("в", "KeyD"))
    strike(page, ("к", "KeyR"), ("!", "Digit1"), ("ы", "KeyS"))
    expect(page.locator(".messages, .empty, .note-ok").first).to_be_visible()
    assert Adjudication.objects.count() == 1

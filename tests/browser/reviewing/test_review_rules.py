"""Tests of a project's rules for rankings, grades of pairs, and guideline changes."""

import re

import pytest
from playwright.sync_api import expect

from labeling.guidelines import versions
from labeling.models import MAX_RATIONALE_LENGTH, GuidelineConfirmation, Project, Ranking
from tests.browser.reviewing.desk import in_letters, next_is_ready, press, sent, slot_shown
from tests.labeling.world import make_member, publish

pytestmark = pytest.mark.django_db(transaction=True)


def policy(world, **fields):
    Project.objects.update(**fields)
    world.project.refresh_from_db()


# --- requirements of a project --------------------------------------------------------------------


def test_ties_are_not_offered_in_projects_without_ties(visit, world):
    policy(world, allow_ties=False)
    world.add_task()
    page = visit(world.review, world.reviewer)
    expect(page.locator("[data-do=tie]")).to_have_count(0)
    press(page, "a", "=")
    expect(page.locator("#review-status")).to_have_text("This project does not allow ties.")
    press(page, "Shift+B")
    expect(page.locator("#review-status")).to_have_text("This project does not allow ties.")
    press(page, "b", "c", "d", "ArrowLeft")  # past C, with which it would otherwise tie
    page.locator(".ladder-tier .chip", has_text="B").drag_to(
        page.locator(".ladder-tier", has_text="A"), target_position={"x": 10, "y": 20}
    )
    expect(page.locator(".ladder-tier")).to_have_count(4)
    press(page, "Enter")
    assert in_letters(sent(page, world, 1)) == ["B", "A", "D", "C"]


def test_without_scripts_a_tie_is_refused_in_projects_without_ties(visit, world):
    policy(world, allow_ties=False)
    world.add_task("One.", "Two.", "Three.")
    page = visit(world.review, world.reviewer, java_script_enabled=False)
    for letter, rank in zip("ABC", "112", strict=True):
        page.get_by_label(f"Rank of response {letter}").select_option(rank)
    page.get_by_role("button", name="Submit and continue").click()
    expect(page.locator(".form-errors")).to_contain_text("This project does not allow ties.")
    assert Ranking.objects.count() == 0


def test_unplaced_responses_are_listed_and_sent_without_a_question(visit, world):
    policy(world, allow_partial=True)
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "b", "Enter")
    expect(page.locator("#review-status")).to_contain_text("compares at least two responses")
    press(page, "d")
    expect(page.locator("#review-status")).to_have_text(
        "D is second. A and C are left out and not compared. Enter submits."
    )
    press(page, "Enter")
    assert in_letters(sent(page, world, 1)) == ["B", "D"]


def test_without_scripts_responses_may_be_unplaced_where_allowed(visit, world):
    policy(world, allow_partial=True)
    world.add_task("One.", "Two.", "Three.")
    page = visit(world.review, world.reviewer, java_script_enabled=False)
    expect(page.get_by_text("You may leave responses out")).to_be_visible()
    page.get_by_label("Rank of response C").select_option("1")
    page.get_by_role("button", name="Submit and continue").click()
    expect(page.locator(".form-errors")).to_contain_text("compares at least two responses")
    page.get_by_label("Rank of response A").select_option("2")
    page.get_by_role("button", name="Submit and continue").click()
    assert in_letters(sent(page, world, 1)) == ["C", "A"]


def test_the_rationale_must_be_as_long_as_the_project_requires(visit, world):
    policy(world, min_rationale=12)
    world.add_task()
    page = visit(world.review, world.reviewer)
    expect(page.get_by_text("at least 12 characters")).to_be_visible()
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.locator("#review-status")).to_contain_text(
        "at least 12 characters; so far there are 0"
    )
    expect(page.get_by_label("Why this order?")).to_be_focused()
    page.keyboard.type("It names a day.")
    press(page, "Control+Enter")
    assert sent(page, world, 1).rationale == "It names a day."


def test_pasting_a_too_long_rationale_shows_an_error(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "c", "d")
    written = "🙂" * (MAX_RATIONALE_LENGTH + 1)
    page.get_by_label("Why this order?").fill(written)
    error = page.locator("#rationale-error")
    expect(error).to_have_text(
        "A rationale has at most 20000 characters; this one has 20001. Shorten it."
    )
    press(page, "Control+Enter")
    expect(page.locator("#review-status")).to_contain_text("this one has 20001")
    assert page.get_by_label("Why this order?").input_value() == written
    page.get_by_label("Why this order?").fill(written[1:])
    expect(error).to_have_text("")
    press(page, "Control+Enter")
    assert sent(page, world, 1).rationale == written[1:]


def test_the_history_shows_the_deadline_for_revisions(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "c", "d", "Enter")
    ranking = sent(page, world, 1)
    history = f"/p/{world.project.slug}/review/history/"
    page.goto(history)
    expect(page.locator("tbody")).to_contain_text("until")
    policy(world, revision_hours=0)
    page.goto(history)
    expect(page.get_by_role("link", name="Revise")).to_have_count(0)
    expect(page.locator("tbody")).to_contain_text("closed")
    page.goto(f"{history}{ranking.pk}/")
    expect(page.locator(".messages")).to_contain_text("can no longer be revised")


# --- two responses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "letters", "strength"),
    [
        ("1", ["A", "B"], 3),
        ("3", ["A", "B"], 1),
        ("4", ["AB"], None),
        ("6", ["B", "A"], 2),
        ("7", ["B", "A"], 3),
    ],
)
def test_a_pair_is_graded_with_one_key(visit, world, key, letters, strength):
    world.add_task("Sorry, we mend it.", "No.")
    page = visit(world.review, world.reviewer)
    expect(page.locator(".dock-grades .grade")).to_have_count(7)
    press(page, key, "Enter")
    ranking = sent(page, world, 1)
    assert (in_letters(ranking), ranking.strength) == (letters, strength)


def test_a_pair_can_be_ranked_with_letters_arrows_the_line_and_undo(visit, world):
    world.add_task("Sorry, we mend it.", "No.")
    page = visit(world.review, world.reviewer)
    press(page, "Enter")
    expect(page.locator("#review-status")).to_contain_text("say which response is better")
    press(page, "a")
    expect(page.locator("#review-status")).to_have_text("A is slightly better. Enter submits.")
    press(page, "a", "ArrowLeft")
    expect(page.locator("#review-status")).to_contain_text("A is much better.")
    press(page, "-")
    expect(page.locator("#review-status")).to_contain_text("The worse one is unacceptable.")
    expect(page.locator(".answer[data-unacceptable=yes]")).to_have_count(1)
    press(page, "-")
    expect(page.locator(".answer[data-unacceptable=yes]")).to_have_count(2)
    press(page, "z", "b", "Enter")
    ranking = sent(page, world, 1)
    assert (in_letters(ranking), ranking.strength, ranking.cut) == (["A", "B"], 2, 1)


def test_a_pair_has_no_tie_grade_without_ties(visit, world):
    policy(world, allow_ties=False)
    world.add_task("Sorry, we mend it.", "No.")
    page = visit(world.review, world.reviewer)
    expect(page.locator(".dock-grades .grade")).to_have_count(6)
    press(page, "=")
    expect(page.locator("#review-status")).to_have_text("This project does not allow ties.")
    press(page, "b", "ArrowLeft", "Enter")
    ranking = sent(page, world, 1)
    assert (in_letters(ranking), ranking.strength) == (["A", "B"], 1)


def test_a_pair_is_graded_by_touch_on_a_phone(visit, world):
    world.add_task("Sorry, we mend it.", "No.")
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = visit(world.review, world.reviewer, **phone)
    page.locator(".grade[data-grade='2']").tap()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="Submit").tap()
    ranking = sent(page, world, 1)
    assert (in_letters(ranking), ranking.strength) == (["B", "A"], 2)


def test_a_pair_is_graded_and_revised_without_scripts(visit, world):
    world.add_task("Sorry, we mend it.", "No.")
    page = visit(world.review, world.reviewer, java_script_enabled=False)
    page.get_by_role("button", name="Submit and continue").click()
    expect(page.locator(".form-errors")).to_contain_text("Say which response is better")
    page.get_by_role("radio", name="B is better", exact=True).check()
    page.get_by_role("button", name="Submit and continue").click()
    ranking = sent(page, world, 1)
    assert (in_letters(ranking), ranking.strength) == (["B", "A"], 2)
    page.goto(f"/p/{world.project.slug}/review/history/{ranking.pk}/")
    expect(page.get_by_role("radio", name="B is better", exact=True)).to_be_checked()
    page.get_by_role("radio", name="A is much better").check()
    page.get_by_role("button", name="Send the revision").click()
    newest = Ranking.objects.latest("id")
    assert (in_letters(newest), newest.strength) == (["A", "B"], 3)


# --- the soft question ---------------------------------------------------------------------------


def rate(page, letter, grade):
    card = page.locator(f".answer[data-letter={letter}]")
    card.locator(".answer-extras summary").click()
    card.locator(".rating-scale label", has_text=re.compile(f"^{grade}$")).click()


def test_contradicting_ratings_cause_one_question_and_never_block(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "c", "d")
    rate(page, "A", 2)
    rate(page, "B", 5)
    press(page, "s")
    locator = page.locator("#ask-dialog")
    expect(locator).to_contain_text(
        "You rated B higher than A on honesty, but ranked A above B. Send anyway?"
    )
    press(page, "Escape")
    assert Ranking.objects.count() == 0
    press(page, "s")
    expect(locator).to_be_visible()
    press(page, "Enter")
    assert in_letters(sent(page, world, 1)) == ["A", "B", "C", "D"]


def test_a_late_close_event_does_not_answer_the_dialog(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "c", "d")
    rate(page, "A", 2)
    rate(page, "B", 5)
    press(page, "s")
    locator = page.locator("#ask-dialog")
    expect(locator).to_be_visible()
    locator.evaluate("dialog => dialog.dispatchEvent(new Event('close'))")
    press(page, "Enter")
    assert in_letters(sent(page, world, 1)) == ["A", "B", "C", "D"]


def test_agreeing_or_tied_ratings_cause_no_question(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "=", "c", "d")
    rate(page, "A", 5)
    rate(page, "B", 2)
    rate(page, "C", 4)  # higher than B, with which it ties
    press(page, "s")
    sent(page, world, 1)


# --- the guideline -------------------------------------------------------------------------------


def test_new_reviewers_read_the_guideline_first(visit, world):
    world.add_task()
    publish(world.project, "Be kind.\n\n" * 200)
    newcomer = make_member(world.project, confirmed=False)
    page = visit(world.review, newcomer)
    expect(page.get_by_role("heading", name="Before you start")).to_be_in_viewport()
    assert page.evaluate("scrollY") == 0
    expect(page.locator(".prose")).to_contain_text("Be kind.")
    page.get_by_role("button", name="Start").click()
    expect(page.locator(".answer")).to_have_count(4)
    assert GuidelineConfirmation.objects.filter(reviewer=newcomer).count() == 1
    page.goto(world.review)
    expect(page.locator(".answer")).to_have_count(4)


def test_a_changed_guideline_is_shown_and_confirmed_before_going_on(visit, world):
    for _ in range(3):
        world.add_task()
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    old = world.project.current_version
    press(page, "a", "b", "c")
    new = publish(world.project, "Be kind and brief.")
    press(page, "d", "Enter")
    expect(page.get_by_role("heading", name="The guideline changed")).to_be_visible()
    expect(page.locator(".diff ins")).to_contain_text("Be kind and brief.")
    assert Ranking.objects.get().guideline_version == old
    page.get_by_role("button", name="Continue with version 2").click()
    expect(page.locator(".guideline-title + span")).to_have_text("version 2")
    press(page, "d", "c", "b", "a", "Enter")
    assert sent(page, world, 2).guideline_version == new


def test_a_draft_survives_a_guideline_change(visit, world):
    world.add_task()
    world.add_task()
    page = visit(world.review, world.reviewer)
    slot = slot_shown(page)
    with page.expect_response(re.compile("/draft/")):
        press(page, "c", "a")
    publish(world.project, "Be kind and brief.")
    page.reload()
    page.get_by_role("button", name="Continue with version 2").click()
    expect(page.locator(".ladder-tier")).to_have_count(2)
    assert slot_shown(page) == slot


def test_ratings_are_checked_against_the_guideline_that_was_shown(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    old = world.project.current_version
    press(page, "a", "b", "c", "d")
    rate(page, "A", 5)
    draft = versions.create_draft(
        project=world.project,
        by=None,
        text="Be brief.",
        criteria=[{"name": "brevity", "meaning": "Is short.", "scale": 3}],
    )
    versions.publish(version=draft, by=None)
    press(page, "s")
    expect(page.get_by_role("heading", name="The guideline changed")).to_be_visible()
    ranking = Ranking.objects.get()
    assert ranking.guideline_version == old
    assert ranking.ratings == {str(ranking.shown_order[0]): {"honesty": 5}}

"""Tests of prefetching, network outages, refusals and undo on the ranking page."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, Route, expect

from labeling.models import Membership, Project, Ranking, Slot
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.browser.conftest import World
from tests.browser.reviewing.desk import in_letters, next_is_ready, press, sent, slot_shown
from tests.labeling.world import ids, make_member

pytestmark = pytest.mark.django_db(transaction=True)

REVIEW = re.compile(r"/review/$")


def hold_submits(page: Page) -> list[Route]:
    """Hold submits until the test releases them."""
    held: list[Route] = []
    page.route(
        REVIEW,
        lambda route: held.append(route) if route.request.method == "POST" else route.continue_(),
    )
    return held


def release_submits(page: Page, held: list[Route]) -> None:
    for route in held:
        route.continue_()
    page.unroute(REVIEW)


def disconnect(page: Page) -> None:
    page.route(
        REVIEW,
        lambda route: route.abort() if route.request.method == "POST" else route.continue_(),
    )


def many(world: World, count: int) -> None:
    for _ in range(count):
        world.add_task()


# --- prefetching ---------------------------------------------------------------------------------


def test_the_next_task_is_shown_before_the_submit_is_answered(visit, world):
    many(world, 3)
    page = visit(world.review, world.reviewer)
    first = slot_shown(page)
    next_is_ready(page)
    held = hold_submits(page)
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.locator("#ranking-form")).not_to_have_attribute("data-slot", str(first))
    expect(page.locator(".answer")).to_have_count(4)
    expect(page.locator("#sent-place")).to_contain_text("Sending…")
    assert Ranking.objects.count() == 0
    release_submits(page, held)
    sent(page, world, 1)
    expect(page.locator("#sent-place")).to_contain_text("Sent.")
    press(page, "d", "c", "b", "a", "Enter")
    assert in_letters(sent(page, world, 2)) == ["D", "C", "B", "A"]


def test_a_prefetched_task_is_hidden_until_it_is_shown(visit, world):
    many(world, 3)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    ahead = Slot.objects.get(ahead=True)
    assert (ahead.reviewer, ahead.shown_at) == (world.reviewer, None)
    press(page, "a", "b", "c", "d", "Enter")
    sent(page, world, 1)
    assert slot_shown(page) == ahead.pk
    next_is_ready(page)
    ahead.refresh_from_db()
    assert ahead.shown_at and not ahead.ahead
    assert Slot.objects.get(ahead=True).shown_at is None


def test_other_scripts_learn_which_sheet_is_shown(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    page.evaluate(
        "() => document.addEventListener('sheet:shown',"
        " (event) => (window.told = event.detail.form.dataset.slot))"
    )
    next_is_ready(page)
    press(page, "a", "b", "c", "d", "Enter")
    sent(page, world, 1)
    assert int(page.evaluate("window.told")) == slot_shown(page)


def test_the_guideline_keeps_its_scroll_position(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    page.evaluate("document.getElementById('guideline').dataset.mark = 'read'")
    next_is_ready(page)
    press(page, "a", "b", "c", "d", "Enter")
    sent(page, world, 1)
    expect(page.locator("#guideline")).to_have_count(1)
    expect(page.locator("#guideline")).to_have_attribute("data-mark", "read")


def test_a_skip_shows_the_prefetched_sheet(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    ahead = Slot.objects.get(ahead=True)
    press(page, "x", "Space", "Enter")
    expect(page.locator("#ranking-form")).to_have_attribute("data-slot", str(ahead.pk))
    expect(page.locator("#sent-place")).to_contain_text("Skipped.")


# --- outages and refusals ----------------------------------------------------------------------------


def test_a_refused_ranking_is_shown_again_with_its_input(visit, world):
    many(world, 3)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    first = slot_shown(page)
    Project.objects.update(
        min_rationale=10
    )  # a lead adds a requirement that this page does not know
    held = hold_submits(page)
    press(page, "b", "a", "-", "c", "d", "Enter")
    expect(page.locator("#ranking-form")).not_to_have_attribute("data-slot", str(first))
    press(page, "d")  # the reviewer has started on the next task
    release_submits(page, held)
    expect(page.locator("#ranking-form")).to_have_attribute("data-slot", str(first))
    expect(page.locator("#errors")).to_contain_text("The rationale needs at least 10 characters")
    expect(page.locator(".ladder-tier")).to_have_count(4)
    expect(page.locator(".ladder-line")).to_have_count(1)
    press(page, "n")
    page.keyboard.type("It names a day.")
    press(page, "Control+Enter")
    assert in_letters(sent(page, world, 1)) == ["B", "A", "C", "D"]
    expect(page.locator(".ladder-tier")).to_contain_text("D")  # the started task


def test_work_continues_without_a_network_and_is_sent_later(visit, world):
    many(world, 3)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    page.context.set_offline(True)
    press(page, "c", "d", "a", "b", "Enter")
    expect(page.locator("#outbox-note")).to_contain_text("There is no network. 1 ranking is kept")
    press(page, "d", "c", "b", "a", "Enter")
    expect(page.locator("#outbox-note")).to_contain_text("2 rankings are kept in this browser")
    expect(page.locator("#review-status")).to_contain_text("kept in this browser")
    assert Ranking.objects.count() == 0
    page.context.set_offline(False)
    assert in_letters(sent(page, world, 2)) == ["D", "C", "B", "A"]
    assert in_letters(Ranking.objects.earliest("id")) == ["C", "D", "A", "B"]
    expect(page.locator("#outbox-note")).to_be_hidden()
    expect(page.locator(".answer[data-placed=yes]")).to_have_count(0)  # the third one


def test_rankings_kept_by_an_earlier_page_are_sent_at_the_next_load(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    first = slot_shown(page)
    next_is_ready(page)
    disconnect(page)
    press(page, "c", "d", "a", "b", "Enter")
    expect(page.locator("#outbox-note")).to_contain_text("1 ranking is kept")
    page.unroute(REVIEW)
    page.reload()
    assert in_letters(sent(page, world, 1)) == ["C", "D", "A", "B"]
    assert slot_shown(page) != first


def test_a_damaged_entry_does_not_keep_rankings_from_being_sent(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    prefix = f"tiebreak-outbox/{world.reviewer.pk}/{world.project.slug}/"
    page.evaluate("(prefix) => localStorage.setItem(prefix + '1-damaged', '5')", prefix)
    press(page, "a", "b", "c", "d", "Enter")
    assert in_letters(sent(page, world, 1)) == ["A", "B", "C", "D"]
    expect(page.locator("#outbox-note")).to_be_hidden()


def test_kept_rankings_are_sent_when_no_task_is_left(visit, world):
    many(world, 1)
    page = visit(world.review, world.reviewer)
    disconnect(page)
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.locator("#outbox-note")).to_contain_text("1 ranking is kept")
    lapsed = {"reviewer": None, "leased_until": None, "priority": 10}
    Slot.objects.update(**lapsed)
    page.unroute(REVIEW)
    page.goto(world.review)
    expect(page.get_by_role("heading", name="No tasks left for you")).to_be_visible()
    page.wait_for_function(
        "() => !Object.keys(localStorage).some((name) => name.startsWith('tiebreak-outbox'))"
    )
    assert in_letters(Ranking.objects.get()) == ["A", "B", "C", "D"]


def test_a_draft_survives_its_reservation(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    first = slot_shown(page)
    with page.expect_response(re.compile("/draft/")):
        press(page, "c", "a")
    page.goto("/")
    Slot.objects.filter(pk=first).update(leased_until=timezone.now() - timedelta(minutes=1))
    assert slots.release_expired() == 1
    page.evaluate("localStorage.clear()")  # only the server's copy
    page.goto(world.review)
    assert slot_shown(page) == first
    expect(page.locator(".ladder-tier")).to_have_count(2)


def test_a_lost_response_makes_no_second_ranking(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)

    def lose_the_answer(route: Route) -> None:
        if route.request.method != "POST":
            return route.continue_()
        route.fetch()
        return route.abort()

    page.route(REVIEW, lose_the_answer)
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.locator("#outbox-note")).to_contain_text("1 ranking is kept")
    assert Ranking.objects.count() == 1
    page.unroute(REVIEW)
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#outbox-note")).to_be_hidden()
    sent(page, world, 1)


def test_an_expired_csrf_token_is_renewed(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    page.context.clear_cookies(name="csrftoken")
    press(page, "a", "b", "c", "d", "Enter")
    sent(page, world, 1)


def test_rankings_wait_while_the_reviewer_is_signed_out(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    cookies = page.context.cookies()
    page.context.clear_cookies()
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.locator("#outbox-note")).to_contain_text("You are signed out. 1 ranking is kept")
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    page.context.add_cookies(cookies)
    page.reload()
    sent(page, world, 1)


def test_a_ranking_is_kept_while_the_server_does_not_answer(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    page.route(
        REVIEW,
        lambda route: (
            route.fulfill(status=503) if route.request.method == "POST" else route.continue_()
        ),
    )
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.locator("#outbox-note")).to_contain_text("The server does not answer. 1 ranking")
    page.unroute(REVIEW)
    page.get_by_role("button", name="Try now").click()
    sent(page, world, 1)


def test_a_refused_ranking_is_kept_until_it_is_discarded(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    Membership.objects.filter(user=world.reviewer).delete()
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.locator("#outbox-note")).to_contain_text("was refused")
    assert Ranking.objects.count() == 0
    page.get_by_role("button", name="Discard").click()
    expect(page.locator("#outbox-note")).to_be_hidden()


def test_a_ranking_for_a_filled_slot_is_kept_with_a_message(visit, world):
    task = world.add_task()
    many(world, 1)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    assert Slot.objects.get(pk=slot_shown(page)).task == task
    Slot.objects.filter(task=task).update(reviewer=None, leased_until=None, shown_order=None)
    recording.record(
        task=task,
        reviewer=make_member(world.project),
        source="review",
        content=Content([ids(task)]),
    )
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.locator("#outbox-note")).to_contain_text("kept as an extra one")
    assert Ranking.objects.get(reviewer=world.reviewer).extra
    page.get_by_role("button", name="OK").click()
    expect(page.locator("#outbox-note")).to_be_hidden()


def test_leases_of_the_shown_and_the_prefetched_task_are_renewed(visit, world):
    many(world, 2)
    page = visit("/", world.reviewer)
    page.clock.install()
    page.goto(world.review)
    next_is_ready(page)
    soon = timezone.now() + timedelta(minutes=1)
    Slot.objects.filter(leased_until__isnull=False).update(leased_until=soon)
    page.mouse.move(10, 10)
    renewed = re.compile("/renew/")
    with page.expect_response(renewed):
        for _ in range(11):
            page.clock.run_for(59_000)
            page.mouse.move(20, 20)
    page.wait_for_load_state("networkidle")
    assert Slot.objects.filter(leased_until__gt=soon).count() == 2


# --- undo ----------------------------------------------------------------------------------------


def test_z_reopens_the_last_ranking(visit, world):
    many(world, 3)
    page = visit(world.review, world.reviewer)
    first = slot_shown(page)
    next_is_ready(page)
    press(page, "a", "=", "b", "c", "d", "Enter")
    wrong = sent(page, world, 1)
    next_is_ready(page)
    second = slot_shown(page)
    press(page, "z")
    expect(page.locator("#ranking-form")).to_have_attribute("data-slot", str(first))
    expect(page.locator("#review-status")).to_contain_text("Undone")
    expect(page.locator(".ladder-tier")).to_have_count(3)
    wrong.refresh_from_db()
    assert wrong.superseded_at
    assert Slot.objects.get(ahead=True).pk == second
    press(page, "Backspace", "d", "ArrowLeft", "Enter")
    expect(page.locator("#ranking-form")).to_have_attribute("data-slot", str(second))
    expect(page.locator("#review-progress")).to_contain_text("1 done today")
    newest = Ranking.objects.get(superseded_at=None)
    assert (in_letters(newest), newest.supersedes) == (["AB", "CD"], None)


def test_z_first_undoes_changes_on_this_sheet(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    press(page, "a", "b", "c", "d", "Enter")
    sent(page, world, 1)
    second = slot_shown(page)
    press(page, "b", "z")
    expect(page.locator("#review-status")).to_have_text("Undone.")
    assert slot_shown(page) == second
    assert not Ranking.objects.exclude(superseded_at=None).exists()


def test_an_unsent_ranking_is_reopened_in_the_browser(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    first = slot_shown(page)
    next_is_ready(page)
    page.context.set_offline(True)
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.locator("#outbox-note")).to_contain_text("1 ranking is kept")
    press(page, "z")
    expect(page.locator("#ranking-form")).to_have_attribute("data-slot", str(first))
    expect(page.locator("#outbox-note")).to_be_hidden()
    press(page, "d", "ArrowLeft", "Enter")
    page.context.set_offline(False)
    assert in_letters(sent(page, world, 1)) == ["A", "B", "CD"]


def test_the_last_ranking_can_be_reopened_after_a_reload_and_when_no_task_is_left(visit, world):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    first = slot_shown(page)
    next_is_ready(page)
    press(page, "a", "b", "c", "d", "Enter")
    sent(page, world, 1)
    page.reload()
    page.get_by_role("button", name="Undo z").first.click()
    expect(page.locator("#ranking-form")).to_have_attribute("data-slot", str(first))
    press(page, "Enter")
    expect(page.locator("#ranking-form")).not_to_have_attribute("data-slot", str(first))
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.get_by_role("heading", name="No tasks left for you")).to_be_visible()
    press(page, "z")
    expect(page.locator(".ladder-tier")).to_have_count(4)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"status": 404, "body": "<h1>Page not found</h1>"}, "This can no longer be undone."),
        ({"status": 200, "json": {}}, "The server did not undo this."),
        ({"status": 503, "json": {"detail": "Later."}}, "The server did not undo this."),
    ],
    ids=["a missing page", "JSON without a sheet or errors", "a server error"],
)
def test_an_undo_without_a_sheet_in_the_reply_says_why(visit, world, answer, sentence):
    many(world, 2)
    page = visit(world.review, world.reviewer)
    next_is_ready(page)
    press(page, "a", "b", "c", "d", "Enter")
    sent(page, world, 1)
    page.route(re.compile("/undo/$"), lambda route: route.fulfill(**answer))
    press(page, "z")
    expect(page.locator("#review-status")).to_contain_text(sentence)
    expect(page.locator("#sent-note")).to_have_count(0 if answer["status"] == 404 else 1)


def test_the_offer_to_undo_expires(visit, world):
    many(world, 2)
    page = visit("/", world.reviewer)
    page.clock.install()
    page.goto(world.review)
    next_is_ready(page)
    press(page, "a", "b", "c", "d", "Enter")
    sent(page, world, 1)
    expect(page.locator("#sent-note")).to_be_visible()
    page.clock.run_for(121_000)
    expect(page.locator("#sent-note")).to_have_count(0)
    press(page, "z")
    expect(page.locator("#review-status")).to_have_text("There is nothing to undo.")


# --- two tabs ------------------------------------------------------------------------------------


def test_a_second_tab_reports_that_its_task_was_sent_and_counts_once(visit, world):
    world.add_task()
    world.add_task()
    first = visit(world.review, world.reviewer)
    second = first.context.new_page()
    second.goto(world.review)
    press(first, "a", "b", "c", "d", "Enter")
    sent(first, world, 1)
    press(second, "b")
    expect(second.locator("#review-status")).to_contain_text("already ranked this task")
    press(second, "a", "c", "d", "Enter")
    expect(second.locator("#review-progress")).to_contain_text("1 done today")
    assert Ranking.objects.filter(superseded_at=None).count() == 1

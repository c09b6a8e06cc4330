"""Tests of ranking by keyboard, mouse and touch, and without scripts."""

import re

import pytest
from playwright.sync_api import expect

from labeling.models import Ranking, Skip, Slot
from tests.browser.reviewing.desk import in_letters, press, sent

pytestmark = pytest.mark.django_db(transaction=True)


def test_ten_tasks_are_ranked_by_keyboard_with_ties_in_at_most_twelve_presses(visit, world):
    for _ in range(10):
        world.add_task()
    page = visit(world.review, world.reviewer)
    for done in range(1, 11):
        expect(page.locator(".dock")).to_be_visible()
        presses = press(page, "b", "a", "Shift+C", "d", "Enter")
        assert presses + 1 <= 12  # Shift counts as a press
        assert in_letters(sent(page, world, done)) == ["B", "AC", "D"]
    expect(page.get_by_role("heading", name="No tasks left for you")).to_be_visible()
    assert Slot.objects.filter(ranking=None).count() == 0


def test_the_sheet_starts_without_an_order_and_an_empty_ranking_is_refused(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    assert page.locator("select[name^=rank-]").evaluate_all("all => all.map(s => s.value)") == [
        "", "", "", "",
    ]  # fmt: skip
    press(page, "a", "b", "Enter")
    expect(page.locator("#review-status")).to_have_text(re.compile("C and D are not placed"))
    assert Ranking.objects.count() == 0


def test_the_line_is_drawn_crossed_and_undone(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "1", "2", "-", "3", "=", "4")
    expect(page.locator(".answer[data-unacceptable=yes]")).to_have_count(2)
    press(page, "ArrowLeft")  # D leaves the tie
    press(page, "ArrowLeft")  # and crosses the line
    expect(page.locator(".answer[data-unacceptable=yes]")).to_have_count(1)
    press(page, "z", "z")
    expect(page.locator(".answer[data-unacceptable=yes]")).to_have_count(2)
    press(page, "y", "y", "Enter")
    ranking = sent(page, world, 1)
    assert (in_letters(ranking), ranking.cut) == (["A", "B", "D", "C"], 3)


def test_removing_the_line_is_announced(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "-")
    expect(page.locator("#review-status")).to_have_text(
        "Responses you place next are unacceptable."
    )
    press(page, "u")
    expect(page.locator("#review-status")).to_have_text("Line removed.")
    press(page, "b", "Backspace")
    expect(page.locator("#review-status")).to_have_text("B is unplaced.")
    press(page, "b", "c", "d", "s")
    ranking = sent(page, world, 1)
    assert (in_letters(ranking), ranking.cut) == (["A", "B", "C", "D"], None)


def test_ratings_flags_and_rationale_are_entered_by_keyboard(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "r", "4", "Escape", "b", "c", "d", "n")
    page.keyboard.type("a b c: letters typed here move nothing")
    page.keyboard.press("Escape")
    page.locator(".answer[data-letter=B] .answer-extras summary").click()
    page.locator(".answer[data-letter=B]").get_by_label("Broken output").check()
    press(page, "Control+Enter")
    ranking = sent(page, world, 1)
    assert ranking.flags == {str(ranking.shown_order[1]): ["broken"]}
    assert ranking.ratings == {str(ranking.shown_order[0]): {"honesty": 4}}
    assert ranking.rationale == "a b c: letters typed here move nothing"
    assert in_letters(ranking) == ["A", "B", "C", "D"]


def test_a_task_is_skipped_with_a_reason_by_keyboard(visit, world):
    task = world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "x")
    expect(page.get_by_role("heading", name="Skip this task")).to_be_visible()
    press(page, "Space", "ArrowDown", "Enter")
    expect(page.get_by_role("heading", name="No tasks left for you")).to_be_visible()
    assert Skip.objects.get(task=task).reason == Skip.Reason.EXPERTISE


def test_shortcuts_are_listed_and_can_be_switched_off(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "?")
    listed = page.locator("#help-dialog")
    for key in ("A", "Shift", "=", "←", "-", "⌫", "Z", "S", "R", "N", "J", "O", "V", "X", "?"):
        assert listed.locator("kbd", has_text=re.compile(f"^{re.escape(key)}$")).count()
    page.get_by_label("Disable single-key shortcuts").check()
    press(page, "Escape", "a")
    assert page.locator(".answer[data-placed=yes]").count() == 0


def test_ranking_with_the_mouse_and_by_dragging(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    for letter in "CAB":
        page.get_by_role("button", name=f"Place {letter} next").click()
    page.locator(".ladder-tray .chip", has_text="D").drag_to(
        page.locator(".ladder-tier", has_text="A"), target_position={"x": 30, "y": 20}
    )
    expect(page.locator(".ladder-tier").nth(1)).to_contain_text("AD")
    page.get_by_role("button", name="Submit").click()
    assert in_letters(sent(page, world, 1)) == ["C", "AD", "B"]


def test_a_drop_after_a_cancelled_drag_moves_no_response(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b")
    chip, tray = page.locator(".ladder-tier .chip").first, page.locator(".ladder-tray")
    chip.dispatch_event("dragstart")
    chip.dispatch_event("dragend")
    tray.dispatch_event("drop")
    expect(page.locator(".ladder-tier .chip")).to_have_count(2)
    expect(page.locator(".ladder-tray .chip")).to_have_count(2)


def test_ranking_by_touch_on_a_phone(visit, world):
    world.add_task()
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = visit(world.review, world.reviewer, **phone)
    page.get_by_role("button", name="Place D next").tap()
    page.locator("[data-do=tie]").tap()
    page.get_by_role("button", name="Place A next").tap()
    page.locator("[data-do=line]").tap()
    page.get_by_role("button", name="Place B next").tap()
    page.get_by_role("button", name="Place C next").tap()
    page.locator("[data-do=better]").tap()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="Submit").tap()
    ranking = sent(page, world, 1)
    assert (in_letters(ranking), ranking.cut) == (["AD", "BC"], 1)


def test_ranking_works_without_javascript(visit, world):
    world.add_task()
    world.add_task()
    page = visit(world.review, world.reviewer, java_script_enabled=False)
    for letter, rank in zip("ABC", ("2", "1", "2"), strict=True):
        page.get_by_label(f"Rank of response {letter}").select_option(rank)
    page.get_by_label("The line").select_option("1")
    page.get_by_label("Why this order?").fill("The first one hears her.")
    page.get_by_role("button", name="Submit and continue").click()
    expect(page.locator(".form-errors")).to_contain_text("Not ranked yet: D.")
    expect(page.get_by_label("Why this order?")).to_have_value("The first one hears her.")
    page.get_by_label("Rank of response D").select_option("4")
    page.get_by_role("button", name="Submit and continue").click()
    ranking = sent(page, world, 1)
    assert (in_letters(ranking), ranking.cut) == (["B", "AC", "D"], 1)
    page.get_by_label("I do not know the subject").check()
    page.get_by_role("button", name="Skip task").click()
    expect(page.get_by_role("heading", name="No tasks left for you")).to_be_visible()


def test_a_draft_survives_a_reload_and_another_machine(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "b", "a", "-", "n")
    with page.expect_response(re.compile("/draft/")):
        page.keyboard.type("It hears her")
    page.reload()
    expect(page.locator(".ladder-tier")).to_have_count(2)
    expect(page.get_by_label("Why this order?")).to_have_value("It hears her")
    other = visit(world.review, world.reviewer)
    expect(other.locator(".ladder-tier")).to_have_count(2)
    expect(other.locator(".ladder-line")).to_have_count(1)


def test_two_submits_make_one_ranking(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "c", "d")
    page.evaluate(
        "() => { const f = document.getElementById('ranking-form'); f.submit(); f.submit(); }"
    )
    sent(page, world, 1)


def test_a_ranking_with_an_expired_lease_is_kept(visit, world):
    task = world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "c")
    Slot.objects.filter(task=task).update(reviewer=None, leased_until=None, shown_order=None)
    press(page, "d", "Enter")
    assert in_letters(sent(page, world, 1)) == ["A", "B", "C", "D"]


def test_active_time_is_counted_and_shown(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    expect(page.locator("#active-time")).to_have_text(re.compile("0:0[2-9]"), timeout=6000)
    press(page, "a", "b", "c", "d", "Enter")
    assert 1.5 < sent(page, world, 1).active_seconds < 30


def test_a_submitted_ranking_is_revised(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    press(page, "a", "b", "c", "d", "Enter")
    first = sent(page, world, 1)
    page.goto(f"/p/{world.project.slug}/review/history/")
    page.get_by_role("link", name="Revise").click()
    expect(page.locator(".ladder-tier")).to_have_count(4)
    press(page, "d", "ArrowLeft", "Enter")
    expect(page.locator(".messages")).to_contain_text("Your revision is saved")
    newest = Ranking.objects.latest("id")
    assert (in_letters(newest), newest.supersedes_id) == (["A", "B", "CD"], first.pk)


def test_nine_responses_are_ranked(visit, world):
    world.add_task(*[f"Answer {n}. " * 20 for n in range(9)])
    page = visit(world.review, world.reviewer)
    press(page, *"987654321", "Enter")
    assert in_letters(sent(page, world, 1)) == list("IHGFEDCBA")


HOSTILE = (
    "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>",
    "[click](javascript:window.hit=3) <a href='javascript:window.hit=4'>here</a>",
    "<svg onload='window.hit=5'></svg><style>body{display:none}</style>",
    "</div></form><form action='//evil.test'><input name=csrfmiddlewaretoken>",
    "![x](http://evil.test/track.png) \u202eltr\u200b {{ 7|add:7 }} " + "x" * 5000,
)


def test_hostile_responses_are_inert(visit, world):
    world.add_task(*HOSTILE, prompt="<script>window.hit = 9</script>")
    requests: list[str] = []
    page = visit("/", world.reviewer)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(world.review)
    expect(page.locator(".answer")).to_have_count(5)
    assert page.evaluate("window.hit") is None
    assert page.locator("script:not([src])").count() == 0
    assert page.locator(".answer a[href^='javascript:']").count() == 0
    assert not [url for url in requests if "evil.test" in url]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    press(page, "1", "2", "3", "4", "5", "Enter")
    sent(page, world, 1)


def test_the_policy_blocks_inline_scripts_and_styles(page, live_server):
    page.goto(f"{live_server.url}/login/")
    blocked = page.evaluate(
        """() => new Promise((done) => {
            const seen = [];
            document.addEventListener("securitypolicyviolation", (e) => {
                seen.push(e.effectiveDirective);
                if (seen.length === 2) done(seen.sort());
            });
            const script = document.createElement("script");
            script.textContent = "window.hit = 1";
            const style = document.createElement("style");
            style.textContent = "body { display: none }";
            document.head.append(script, style);
        })"""
    )
    assert blocked == ["script-src-elem", "style-src-elem"]
    assert page.evaluate("window.hit") is None

"""Tests of reading: long texts, long chats, differences and right-to-left scripts."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from labeling.models import Project, Prompt, Response
from labeling.queue.tasks import add_task
from tests.browser.conftest import World
from tests.browser.test_pages import faults_in_both_themes

pytestmark = pytest.mark.django_db(transaction=True)

LONG = "\n\n".join(
    f"Paragraph {n}. " + "The lamp is cool and the neck is bent. " * 6 for n in range(30)
)
LONGER = LONG + "\n\n" + LONG.replace("lamp", "goose")


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than the window."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def marked(page: Page, letter: str) -> list[str]:
    return page.locator(f".answer[data-letter={letter}] mark.differs").all_inner_texts()


def talk(world: World, *turns: str, responses: tuple[str, ...] = ("A.", "B.")) -> None:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]
    prompt = Prompt.objects.create(project=world.project, messages=messages)
    answers = [
        Response.objects.create(prompt=prompt, text=text, model_name=f"writer-{n}")
        for n, text in enumerate(responses)
    ]
    add_task(project=world.project, prompt=prompt, responses=answers)


# Long texts


def test_a_very_long_response_is_collapsed_and_expands_by_click_or_key(visit, world):
    world.add_task(LONG, "Short.")
    page = visit(world.review, world.reviewer)
    tall = page.locator(".answer-body", has_text="Paragraph 29")
    unfold = page.get_by_role("button", name="Show all")
    expect(unfold).to_have_count(1)
    expect(unfold).to_have_attribute("aria-expanded", "false")
    assert tall.evaluate("one => one.clientHeight") < 700
    unfold.click()
    expect(page.get_by_role("button", name="Collapse")).to_be_visible()
    assert tall.evaluate("one => one.clientHeight === one.scrollHeight")
    page.keyboard.press("l")
    assert tall.evaluate("one => one.clientHeight") < 700
    page.keyboard.press("l")
    expect(page.locator("#review-status")).to_have_text("All texts are shown in full.")


def test_a_very_long_prompt_is_collapsed_too(visit, world):
    world.add_task("A.", "B.", prompt=LONG)
    page = visit(world.review, world.reviewer)
    expect(page.locator(".prompt").get_by_role("button", name="Show all")).to_be_visible()
    expect(page.locator(".answer").first).to_be_visible()


def test_the_earlier_turns_of_a_long_chat_are_collapsed(visit, world):
    talk(world, *[f"Turn {n}. " + "It is still bent. " * 40 for n in range(7)])
    page = visit(world.review, world.reviewer)
    locator = page.locator(".prompt .message:visible")
    expect(locator).to_have_count(2)
    expect(locator.last).to_contain_text("Turn 6.")
    toggle = page.get_by_role("button", name="Show 5 earlier turns")
    expect(toggle).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("t")
    expect(locator).to_have_count(7)
    expect(page.get_by_role("button", name="Hide earlier turns")).to_be_visible()
    page.keyboard.press("t")
    expect(locator).to_have_count(2)


def test_a_short_chat_is_not_collapsed(visit, world):
    talk(world, "Hello.", "Hello!", "It is bent.")
    page = visit(world.review, world.reviewer)
    expect(page.locator(".prompt .message:visible")).to_have_count(3)
    assert page.locator(".earlier").count() == 0


def test_wide_code_and_tables_scroll_in_their_own_box(visit, world):
    code = "```\n" + "x = " + "call(argument) + " * 80 + "\n```"
    table = "| " + " | ".join(f"column {n}" for n in range(40)) + " |\n" + "|---" * 40 + "|\n"
    table += "| " + " | ".join("value-without-a-break" for _ in range(40)) + " |"
    Project.objects.update(name="project-1799")  # two lines on a phone
    world.add_task(code, table, prompt=code)
    for width in (1440, 390):
        page = visit(world.review, world.reviewer, viewport={"width": width, "height": 844})
        assert overflow(page) <= 0
        for box in page.locator(".answer-body pre, .answer-body table, .prompt pre").all():
            assert box.evaluate("one => one.scrollWidth > one.clientWidth + 50")
            box.focus()
            page.keyboard.press("End")
    assert faults_in_both_themes(page) == []


def test_a_text_too_long_for_markdown_is_wrapped(visit, world):
    world.add_task("An ordinary sentence about a lamp. " * 1500, "Short.")
    page = visit(world.review, world.reviewer)
    raw = page.locator(".answer-body samp").first
    expect(raw).to_be_visible()
    assert raw.evaluate("one => one.scrollWidth <= one.clientWidth")


# Scrolling together


def test_responses_scroll_together_in_proportion(visit, world):
    world.add_task(LONG, LONGER)
    page = visit(world.review, world.reviewer)
    page.keyboard.press("p")
    expect(page.get_by_role("button", name="Scroll together")).to_have_attribute(
        "aria-pressed", "true"
    )
    bodies = page.locator(".answer-body")
    share = "one => one.scrollTop / (one.scrollHeight - one.clientHeight)"
    for leader, follower, expected in ((0, 1, 0.5), (1, 0, 1.0), (0, 1, 0.25)):
        bodies.nth(leader).evaluate(
            "(one, share) => { one.scrollTop = share * (one.scrollHeight - one.clientHeight); }",
            expected,
        )
        page.wait_for_function(
            f"([at, share]) => {{ const one = document.querySelectorAll('.answer-body')[at];"
            f" return Math.abs(({share})(one) - share) < 0.01; }}",
            arg=[follower, expected],
        )
        assert bodies.nth(leader).evaluate(share) == pytest.approx(expected, abs=0.01)
    page.reload()
    expect(page.locator("#ranking-form")).to_have_attribute("data-scroll", "together")
    page.keyboard.press("p")
    expect(page.locator("#ranking-form")).to_have_attribute("data-scroll", "apart")
    expect(page.locator(".folded")).to_have_count(2)


def test_joint_scrolling_works_with_the_keyboard_and_a_screen_reader(visit, world):
    world.add_task(LONG, LONGER)
    page = visit(world.review, world.reviewer)
    page.keyboard.press("p")
    region = page.get_by_role("region", name="Text of A")
    region.focus()
    page.keyboard.press("PageDown")
    page.wait_for_function("() => document.querySelectorAll('.answer-body')[1].scrollTop > 50")
    assert faults_in_both_themes(page) == []


# Differences


def test_differences_between_two_responses_are_highlighted_and_cleared(visit, world):
    world.add_task(
        "Your lamp goes out **on Monday** by post.", "Your lamp goes out **on Friday** by post."
    )
    page = visit(world.review, world.reviewer)
    before = page.locator(".answers").inner_html()
    page.keyboard.press("m")
    assert sorted(marked(page, "A") + marked(page, "B")) == ["Friday", "Monday"]
    expect(page.locator("#review-status")).to_contain_text("89% of the words are the same.")
    lines = page.locator("mark.differs").evaluate_all(
        "all => all.map(one => getComputedStyle(one).textDecorationLine)"
    )
    assert lines == ["underline", "underline"]  # not only by colour
    assert faults_in_both_themes(page) == []
    page.keyboard.press("m")
    assert page.locator("mark").count() == 0
    assert page.locator(".answers").inner_html() == before


def test_any_two_responses_can_be_compared(visit, world):
    world.add_task("one common ending", "two common ending", "three common ending")
    page = visit(world.review, world.reviewer)
    compared = page.locator(".answer[data-compared=yes]")
    page.keyboard.press("b")
    page.keyboard.press("m")
    assert compared.evaluate_all("all => all.map(one => one.dataset.letter)") == ["B", "C"]
    page.keyboard.press("Shift+M")
    assert compared.evaluate_all("all => all.map(one => one.dataset.letter)") == ["A", "B"]
    page.get_by_label("Second response to compare").select_option("C")
    assert compared.evaluate_all("all => all.map(one => one.dataset.letter)") == ["A", "C"]
    page.get_by_role("button", name="Clear highlights").click()
    expect(compared).to_have_count(0)


def test_identical_responses_are_reported(visit, world):
    world.add_task("Exactly this.", "Exactly this. ")
    page = visit(world.review, world.reviewer)
    page.get_by_role("button", name="Differences").click()
    expect(page.locator("#review-status")).to_contain_text("identical")
    assert page.locator("mark").count() == 0


def compare(page: Page, left: str, right: str) -> Any:
    return page.evaluate(
        """async ([left, right]) => {
            const { wordsOf, compare } = await import("/static/js/reading/words.js");
            const began = performance.now();
            const words = (text) => wordsOf(text).map((word) => word.text);
            const [a, b] = [words(left), words(right)];
            const found = compare(a, b);
            return {
                left: a.filter((_, at) => found.left[at]), right: b.filter((_, at) => found.right[at]),
                same: found.same, ms: performance.now() - began,
            };
        }""",
        [left, right],
    )


@pytest.mark.parametrize(
    ("left", "right", "of_left", "of_right"),
    [
        ("a b c", "a b c", [], []),
        ("", "a b", [], ["a", "b"]),
        ("the red lamp stands there", "the lamp stands there now", ["red"], ["now"]),
        ("don't do it", "do it", ["don't"], []),
        ("von 3,50 auf 4,50", "von 3,50 auf 5,50", ["4"], ["5"]),
        ("我喜欢红色的灯", "我喜欢蓝色的灯", ["红"], ["蓝"]),
        ("مرحبا بالعالم الكبير", "مرحبا بالعالم الصغير", ["الكبير"], ["الصغير"]),
        ("🙂 yes", "🙃 yes", ["🙂"], ["🙃"]),
    ],
)
def test_differing_words_are_found(visit, world, left, right, of_left, of_right):
    page = visit("/", world.reviewer)
    result = compare(page, left, right)
    assert (result["left"], result["right"]) == (of_left, of_right)


def test_short_matches_between_long_differences_are_ignored(visit, world):
    page = visit("/", world.reviewer)
    result = compare(page, "p q r s the t u v w", "1 2 3 4 the 5 6 7 8")
    assert "the" in result["left"] and "the" in result["right"]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("a " * 40_000, "b a " * 40_000),
        (" ".join(map(str, range(30_000))), " ".join(map(str, range(30_000, 0, -1)))),
        ("x" * 1_000_000, "y" * 1_000_000),
        (
            " ".join(f"{n} {n % 7}" for n in range(20_000)),
            " ".join(f"{n} {n % 5}" for n in range(20_000)),
        ),
    ],
    ids=["one word", "reversed", "a megabyte word", "half of it"],
)
def test_very_long_texts_are_compared_in_bounded_time(visit, world, left, right):
    page = visit("/", world.reviewer)
    assert compare(page, left, right)["ms"] < 3000


# Right-to-left scripts


def test_each_block_has_its_own_direction(visit, world):
    arabic = (
        "مرحبا، طلبك `order #42` في الطريق.\n\nThe lamp is **مصباح** in Arabic.\n\n- אחת\n- two"
    )
    world.add_task(arabic, "> שלום, המנורה שלך בדרך.\n\n| שם | מחיר |\n|---|---|\n| מנורה | 3.50 |")
    page = visit(world.review, world.reviewer)
    direction = "one => getComputedStyle(one).direction"
    right = page.locator(".answer-body", has_text="مرحبا")
    assert [item.evaluate(direction) for item in right.locator("p").all()] == ["rtl", "ltr"]
    assert [entry.evaluate(direction) for entry in right.locator("li").all()] == ["rtl", "ltr"]
    assert right.locator("code").evaluate(direction) == "ltr"
    hebrew = page.locator(".answer-body", has_text="שלום")
    assert hebrew.locator("table").evaluate(direction) == "rtl"
    quote = hebrew.locator("blockquote")
    assert quote.evaluate("one => getComputedStyle(one).borderRightWidth") == "3px"
    starts = hebrew.locator("th").first.evaluate("one => getComputedStyle(one).textAlign")
    assert starts == "start"


def test_the_keys_for_reading_are_listed(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer)
    page.keyboard.press("?")
    for key in "PMLT":
        assert page.locator("#help-dialog kbd", has_text=re.compile(f"^{key}$")).count()


def test_a_sheet_inserted_later_is_set_up_once(visit, world):
    talk(world, *["It is still bent. " * 60] * 7, responses=(LONG, "Short."))
    page = visit(world.review, world.reviewer)
    again = "form => document.dispatchEvent(new CustomEvent('sheet:shown', { detail: { form } }))"
    form = page.locator("#ranking-form")
    form.evaluate(again)
    assert (page.locator(".unfold").count(), page.locator(".earlier").count()) == (1, 1)
    form.evaluate(
        "form => { for (const one of form.querySelectorAll('.unfold, .earlier')) one.remove();"
        " for (const one of form.querySelectorAll('.prompt, .answers')) one.outerHTML ="
        ' one.outerHTML.replace(/folded|hidden=""|data-(foldable|turns)="\\w+"/g, \'\'); }'
    )
    expect(page.locator(".message:visible")).to_have_count(7)
    form.evaluate(again)
    expect(page.locator(".message:visible")).to_have_count(2)
    assert (page.locator(".unfold").count(), page.locator(".earlier").count()) == (1, 1)

"""Tests that reviewers see no English text in German."""

import re
from collections.abc import Iterator
from functools import cache

import pytest
from django.conf import settings
from django.utils.translation import override
from playwright.sync_api import Page, expect

from labeling.models import Project, Ranking, Skip
from tests import messages
from tests.browser.reviewing.desk import press, slot_shown

pytestmark = pytest.mark.django_db(transaction=True)

GERMAN = {"locale": "de-DE"}
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd%]|<[^>]+>|&\w+;")
# Names and texts of the test data, the product's name, keys, and the time zone of a date.
DATA = """Tiebreak UTC EN English DE Esc project user honesty Says what is true
    Be kind My goose lamp has a bent neck letter A new one Sorry We look into it No make demo"""

TAGS = re.compile("<[^>]*>")
"""Tags in the text of <noscript>, which the browser does not parse."""
EVERYTHING = """() => {
    const said = [document.title];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const parent = walker.currentNode.parentElement;
        if (!parent.closest("script, style, .prose")) said.push(walker.currentNode.data);
    }
    for (const one of document.querySelectorAll("body *")) {
        for (const name of ["aria-label", "title", "placeholder", "data-hint", "data-word", "data-hide", "data-show"]) {
            if (one.hasAttribute(name)) said.push(one.getAttribute(name));
        }
    }
    return said;
}"""


@cache
def german() -> list[re.Pattern[str]]:
    """Return all German phrases, and names and texts that are not translated."""
    runs = set(re.findall(r"\w+", DATA))
    for domain in messages.SOURCES:
        for message in messages.read(domain, "de"):
            for text in messages.texts(message.string) if message.id else ():
                runs |= {re.sub(r"^\W+|\W+$", "", piece) for piece in PLACEHOLDER.split(text)}
    with override("de"):
        from django.contrib.auth.forms import AuthenticationForm

        form = AuthenticationForm()
        runs |= {str(field.label) for field in form.fields.values()}
        sentence = str(form.error_messages["invalid_login"]) % {"username": "Benutzername"}
        runs |= {sentence, "Januar", "November", "Dezember"}
        runs |= {part for month in range(1, 13) for part in month_names(month)}
    ordered = sorted((run for run in runs if re.search(r"\w", run)), key=len, reverse=True)
    return [re.compile(rf"(?<!\w){re.escape(run)}(?!\w)") for run in ordered]


@cache
def remains_of(said: str) -> str:
    """Return the text without the known phrases, removing the longest first."""
    for run in german():
        said = run.sub(" ", said)
    return said.strip() if re.search(r"[^\W\d_]{2,}", said) else ""


def month_names(month: int) -> Iterator[str]:
    from django.utils.dates import MONTHS, MONTHS_3

    yield str(MONTHS[month])
    yield str(MONTHS_3[month]).title()


def left_in_english(page: Page) -> list[str]:
    """Return the words of a page that are neither German phrases nor names."""
    texts = [" ".join(TAGS.sub(" ", text).split()) for text in page.evaluate(EVERYTHING)]
    return [f"{page.url}: {rest!r} in {text!r}" for text in texts if (rest := remains_of(text))]


def none_left(page: Page) -> None:
    assert left_in_english(page) == []


def test_an_english_word_is_detected(visit, world):
    page = visit("/", world.reviewer, locale="en-US")
    assert len(left_in_english(page)) > 5


def test_signing_in_and_finding_tasks_in_german(visit, world):
    world.add_task()
    world.reviewer.set_password("a bent neck")
    world.reviewer.save()
    page = visit("/login/", **GERMAN)
    none_left(page)
    page.get_by_label("Benutzername").fill(world.reviewer.username)
    page.get_by_label("Passwort").fill("wrong")
    page.get_by_role("button", name="Anmelden", exact=True).click()
    expect(page.locator(".form-errors")).to_be_visible()
    none_left(page)
    page.get_by_label("Passwort").fill("a bent neck")
    page.get_by_role("button", name="Anmelden", exact=True).click()
    expect(page.get_by_role("heading", name="1 Aufgabe wartet auf Sie")).to_be_visible()
    base = f"/p/{world.project.slug}/"
    for address in (
        "/",
        "/projects/",
        base,
        f"{base}guideline/",
        f"{base}review/history/",
        "/nowhere/",
    ):
        page.goto(address)
        none_left(page)


def test_ranking_and_skipping_in_german(visit, world):
    tasks = [world.add_task() for _ in range(3)]
    page = visit(world.review, world.reviewer, **GERMAN)
    expect(page.locator(".dock")).to_be_visible()
    none_left(page)
    for key in ("Enter", "a", "Shift+B", "c", "-", "ArrowLeft", "d", "=", "Backspace", "z", "y", "u",
                "v", "p", "p", "m", "m", "l", "t", "1", "4"):  # fmt: skip
        page.keyboard.press(key)
        none_left(page)
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Tastenkürzel")).to_be_visible()
    none_left(page)
    page.keyboard.press("Escape")
    page.reload()
    for key in ("z", "a", "b", "c", "d"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(page.locator("#review-progress")).to_contain_text("1 heute erledigt")
    none_left(page)
    page.keyboard.press("x")
    expect(page.get_by_role("heading", name="Diese Aufgabe überspringen")).to_be_visible()
    page.get_by_label("Ich kenne das Thema nicht").check()
    none_left(page)
    skipped = slot_shown(page)
    page.get_by_role("button", name="Aufgabe überspringen").click()
    expect(page.locator("#ranking-form")).not_to_have_attribute("data-slot", str(skipped))
    expect(page.locator(".dock")).to_be_visible()
    none_left(page)
    press(page, "a", "b", "c", "d", "Enter")
    expect(page.get_by_role("heading", name="keine Aufgaben mehr für Sie offen")).to_be_visible()
    none_left(page)
    assert Ranking.objects.count() == 2 and Skip.objects.count() == len(tasks) - 2
    page.goto(f"{world.review}history/")
    none_left(page)
    page.get_by_role("link", name="Überarbeiten").first.click()
    expect(page.locator(".dock")).to_be_visible()
    none_left(page)


def test_grading_a_pair_in_german(visit, world):
    Project.objects.update(min_rationale=20)
    world.add_task("One.", "Two.")
    page = visit(world.review, world.reviewer, **GERMAN)
    for key in ("Enter", "2", "4", "-", "b", "Enter"):
        page.keyboard.press(key)
        page.keyboard.press("Escape")
        none_left(page)
    expect(page.locator("#review-status")).to_contain_text("mindestens 20 Zeichen")


def test_working_without_a_network_in_german(visit, world):
    world.add_task()
    world.add_task()
    page = visit(world.review, world.reviewer, **GERMAN)
    expect(page.locator(".dock")).to_be_visible()
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    for key in ("a", "b", "c", "d", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#outbox-note")).to_be_visible()
    none_left(page)
    page.context.set_offline(False)
    expect(page.locator("#outbox-note")).to_be_hidden(timeout=20_000)


def test_errors_without_scripts_are_in_german(visit, world):
    Project.objects.update(allow_ties=False)
    world.add_task()
    page = visit(world.review, world.reviewer, java_script_enabled=False, **GERMAN)
    page.get_by_label("Rang der Antwort A").select_option("1")
    page.get_by_role("button", name="Absenden und weiter").click()
    expect(page.locator("#errors")).to_contain_text("Noch ohne Rang: B, C, D.")
    page.get_by_label("Etwas anderes").check()
    page.get_by_role("button", name="Aufgabe überspringen").click()
    expect(page.get_by_role("heading", name="keine Aufgaben mehr für Sie offen")).to_be_visible()


def test_changing_the_language_stays_on_the_page_and_is_kept(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer, locale="en-US")
    page.keyboard.press("a")
    page.get_by_role("button", name="Deutsch").click()
    expect(page.get_by_role("button", name="Absenden")).to_be_visible()
    assert page.url.endswith(world.review)
    expect(page.locator(".answer[data-placed=yes]")).to_have_count(1)
    page.goto("/")
    none_left(page)
    assert page.locator("html").get_attribute("lang") == "de"
    assert dict(settings.LANGUAGES)["de"] == "Deutsch"


def test_german_pages_fit_a_phone(visit, world):
    world.add_task()
    page = visit(world.review, world.reviewer, viewport={"width": 390, "height": 844}, **GERMAN)
    expect(page.locator(".dock")).to_be_visible()
    beyond = page.locator("button:visible, a:visible").evaluate_all(
        "all => all.filter(one => one.getBoundingClientRect().right > innerWidth)"
        ".map(one => one.textContent)"
    )
    assert beyond == []

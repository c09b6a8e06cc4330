"""Tests of the German catalogues: complete, compiled, with matching placeholders."""

import gettext
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse
from django.utils import translation

from accounts.models import Role
from config.env import BASE_DIR
from labeling.models import Membership, Prompt
from runs.models import Run
from tests import messages
from tests.labeling.gold.gold_world import make_gold
from tests.labeling.world import make_member, make_project, make_user

FILES = [(domain, language) for domain in messages.SOURCES for language in messages.LANGUAGES]
HOW = "Run `python -m tests.messages` and fill in the .po file."
PLACEHOLDER = re.compile(r"%(?:\((\w+)\))?[sd]|\{(\w*)\}|<[^>]+>|&\w+;")


@pytest.mark.parametrize(("domain", "language"), FILES)
def test_every_message_is_translated(domain: str, language: str) -> None:
    catalog = messages.read(domain, language)
    missing = []
    for location, text, context in messages.messages(domain):
        known = catalog.get(text, context)
        if known is None or not all(messages.texts(known.string)):
            missing.append(f"{location}: {text}")
    assert missing == [], HOW


@pytest.mark.parametrize(("domain", "language"), FILES)
def test_the_catalogues_have_no_unused_message(domain: str, language: str) -> None:
    messages_in_code = {
        (text if isinstance(text, str) else text[0], context)
        for _, text, context in messages.messages(domain)
    }
    messages_in_catalogue = {
        (messages.texts(item.id)[0], item.context) for item in messages.read(domain, language)
    }
    assert messages_in_catalogue - {("", None)} - messages_in_code == set(), HOW


@pytest.mark.parametrize(("domain", "language"), FILES)
def test_the_compiled_catalogues_are_up_to_date(domain: str, language: str) -> None:
    path = messages.po_path(domain, language).with_suffix(".mo")
    with path.open("rb") as file:
        served = gettext.GNUTranslations(file)
    for message in messages.read(domain, language):
        if not message.id:
            continue
        first, context = messages.texts(message.id)[0], message.context
        key = f"{context}\x04{first}" if context else first
        for number, text in enumerate(messages.texts(message.string)):
            name = (key, number) if message.pluralizable else key
            assert served._catalog.get(name) == text, HOW  # type: ignore[attr-defined]
    written = {messages.texts(item.id)[-1] for item in messages.read(domain, language)}
    assert len(served._catalog) >= len(written)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("domain", "language"), FILES)
def test_placeholders_match_in_every_language(domain: str, language: str) -> None:
    wrong = []
    for message in messages.read(domain, language):
        expected = set(PLACEHOLDER.findall(messages.texts(message.id)[-1]))
        for text in messages.texts(message.string) if message.id else ():
            if set(PLACEHOLDER.findall(text)) - expected or (
                not message.pluralizable and set(PLACEHOLDER.findall(text)) != expected
            ):
                wrong.append((message.id, text))
    assert wrong == []


def test_every_call_in_a_script_is_collected() -> None:
    """Check that scripts have no message inside `${…}`, where the extractor does not look."""
    hidden = re.compile(r"\$\{[^}]*gettext")
    for path in (messages.ROOT / "static").rglob("*.js"):
        if "vendor" not in path.parts:
            assert not hidden.search(path.read_text()), path


def test_compiling_is_deterministic() -> None:
    first = messages.compiled(messages.read("djangojs", "de"))
    assert first == messages.compiled(messages.read("djangojs", "de"))
    assert first == messages.po_path("djangojs", "de").with_suffix(".mo").read_bytes()


def test_a_page_without_translations_is_marked_as_english() -> None:
    pages = (BASE_DIR / "templates").rglob("*.html")
    for page in pages:
        text = page.read_text()
        if '{% extends "base.html" %}' in text:
            says_so = "{% block language %}{% endblock %}" not in text
            assert says_so == ("translate" not in text), page


@pytest.mark.django_db
def test_a_lead_who_reads_german_gets_english_pages_marked_as_such(client) -> None:
    client.force_login(make_user(Role.TRAINER))
    client.cookies["django_language"] = "de"
    with translation.override("en"):  # the thread keeps the language of its last request
        home, runs = (client.get(address).content.decode() for address in ("/", "/runs/"))
    assert '<html lang="de"' in home and '<html lang="de"' in runs
    assert '<main id="main" tabindex="-1">' in home
    assert '<main id="main" tabindex="-1" lang="en">' in runs


@pytest.mark.django_db
def test_pages_without_translations_write_dates_and_numbers_in_english(client) -> None:
    client.force_login(make_user(Role.TRAINER))
    client.cookies["django_language"] = "de"
    before = datetime.now(UTC) - timedelta(hours=2)
    run = Run.objects.create(kind="reward", state="failed", finished_at=before)
    Run.objects.filter(pk=run.pk).update(created_at=before, step=1234, total_steps=5678)
    answers = [client.get(url) for url in ("/runs/", f"/runs/{run.pk}/", f"/runs/{run.pk}/live")]
    for answer in answers[:2]:
        main = answer.text.partition("<main")[2]
        assert "2\xa0hours ago" in main and "vor 2" not in main
    for answer in answers[1:]:
        assert "1,234 of 5,678" in answer.text and "1.234" not in answer.text
    form = client.post("/runs/new/reward/", {}).text.partition("<main")[2]
    assert "This field is required." in form and "zwingend" not in form


@pytest.mark.django_db
def test_a_german_lead_reads_gold_and_chats_in_english(client) -> None:
    project = make_project()
    client.force_login(make_member(project, Membership.Role.LEAD))
    client.cookies["django_language"] = "de"
    gold = make_gold(project)
    chat = [{"role": "assistant", "content": "Hm."}, {"role": "user", "content": "So?"}]
    Prompt.objects.filter(pk=gold.task.prompt_id).update(messages=chat)
    page = client.get(reverse("project-gold-detail", args=[project.slug, gold.pk])).text
    main = page.partition("<main")[2]
    assert "A belongs above B." in main and ">Model</h3>" in main
    assert "gehört" not in main and "Modell<" not in main

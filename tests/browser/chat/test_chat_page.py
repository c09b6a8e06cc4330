"""Tests of the chat page in a real browser, with a real live server and model server."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from accounts.models import User
from finetune.chat.conversations import start
from finetune.models import Conversation, Model, Reply
from finetune.registry import add_base
from labeling.models import Membership
from tests.browser.chat.conftest import warm_up
from tests.finetune.factory import make_base
from tests.labeling.world import make_member, make_project

pytestmark = [
    pytest.mark.torch,
    pytest.mark.processes,
    pytest.mark.django_db(transaction=True),
]
EIGHT_TOKENS = re.compile(r"\b8 tokens")  # not the 48 tokens of a broken answer
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}


@pytest.fixture
def lead() -> User:
    return make_member(make_project(), Membership.Role.LEAD)


@pytest.fixture
def model(lead: User, speller) -> Model:
    project = lead.memberships.get().project
    return add_base(project=project, base=str(speller), by=lead)[0]


def chat(user: User, *models: Model, max_tokens: int) -> Conversation:
    return start(user=user, models=models, temperature=1.0, top_p=1.0, max_tokens=max_tokens)


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")


def stream(page: Page) -> Locator:
    """Return the answer that is being written, once it has text."""
    answer = page.locator(".chat-stream").first
    expect(answer).to_contain_text(re.compile(r"\w{3}"))
    return answer


def test_an_answer_is_stopped_answered_again_copied_and_found_in_the_history(
    chatting, visit, lead, model
):
    conversation = chat(lead, model, max_tokens=3000)
    page = visit(f"/chats/{conversation.pk}/", lead)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, "Spell a very long word.")
    begun = stream(page).inner_text()
    page.keyboard.press("Escape")
    turn = page.locator(".chat-turn")
    expect(turn.get_by_text("Stopped", exact=True)).to_be_visible()
    expect(turn).to_contain_text(begun[:3])
    assert 0 < Reply.objects.get().tokens < 3000

    Conversation.objects.update(max_tokens=8)
    turn.get_by_role("button", name="Answer again").click()
    expect(turn.get_by_text(EIGHT_TOKENS)).to_be_visible()
    turn.get_by_role("button", name="Copy", exact=True).click()
    expect(turn.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == Reply.objects.latest("id").text

    page.get_by_role("link", name="Chats").first.click()
    page.get_by_role("link", name="Spell a very long word.").click()
    expect(page.locator(".chat-turn")).to_contain_text(copied.strip())


def test_a_killed_model_server_is_reported_and_the_page_recovers(
    chatting, visit, lead, model, speller
):
    conversation = chat(lead, model, max_tokens=3000)
    page = visit(f"/chats/{conversation.pk}/", lead)
    ask(page, "Spell a very long word.")
    stream(page)
    chatting.process.kill()
    turn = page.locator(".chat-turn")
    expect(turn.get_by_text("The model server does not answer")).to_be_visible()
    Conversation.objects.update(max_tokens=8)
    chatting.process.wait()
    chatting.start()
    warm_up(chatting, speller)
    turn.get_by_role("button", name="Answer again").click()
    expect(turn.get_by_text(EIGHT_TOKENS)).to_be_visible()
    assert [reply.ending for reply in Reply.objects.order_by("id")] == ["failed", "length"]


def test_two_models_answer_on_a_phone_without_sideways_scrolling(
    chatting, visit, lead, model, speller
):
    conversation = chat(lead, model, make_base(model.project, base=str(speller)), max_tokens=60)
    page = visit(f"/chats/{conversation.pk}/", lead, **PHONE)
    page.get_by_label("Message").fill("Spell a word.")
    page.get_by_role("button", name="Send").tap()
    expect(page.locator(".answer")).to_have_count(2)
    expect(page.locator(".answer-head", has_text="60 tokens")).to_have_count(2)
    upper, lower = (answer.bounding_box() for answer in page.locator(".answer").all())
    assert upper and lower and lower["y"] >= upper["y"] + upper["height"]
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390

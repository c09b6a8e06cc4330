"""Tests of the WebSocket of a chat, with a real live server, model server and tiny model."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from accounts.models import User
from finetune.chat import conversations, streaming, votes
from finetune.models import Reply, Side, Turn
from labeling.models import Project
from serving.address import Server
from tests.finetune.chat.conversing import publish_guideline
from tests.finetune.chat.live import SECONDS, live
from tests.finetune.factory import make_base
from tests.serving.running import Running
from tests.tiny import make_model

pytestmark = [
    pytest.mark.torch,
    pytest.mark.processes,
    pytest.mark.django_db(transaction=True),
]
__all__ = ["live"]


@pytest.fixture(scope="module")
def folders_of_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [
        make_model(tmp_path_factory.mktemp(name), seed=seed, max_position_embeddings=4096)
        for seed, name in enumerate("ab")
    ]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    with Running(tmp_path_factory.mktemp("server"), forked=True) as running:
        yield running


@pytest.fixture
def served(settings: Any, running: Running) -> Server:
    settings.MODEL_SERVER = running.server
    return running.server


@pytest.fixture
def conversation(project, people, folders_of_models, served):
    publish_guideline(project, people["lead"])
    models = [make_base(project, base=str(folder)) for folder in folders_of_models]
    return conversations.start(
        user=people["lead"], models=models, temperature=1.0, top_p=1.0, max_tokens=24
    )


@contextmanager
def connected(
    port: int, user: User, pk: int, origin: str = "http://127.0.0.1"
) -> Iterator[ClientConnection]:
    client = Client()
    client.force_login(user)
    cookie = client.cookies[django_settings.SESSION_COOKIE_NAME].value
    headers = {"Cookie": f"{django_settings.SESSION_COOKIE_NAME}={cookie}"}
    address = f"ws://127.0.0.1:{port}/live/chat/{pk}/"
    with connect(address, additional_headers=headers, origin=origin) as socket:  # type: ignore[arg-type]
        yield socket


def say(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


def event(socket: ClientConnection) -> dict[str, Any]:
    return json.loads(socket.recv(timeout=SECONDS))


def until(socket: ClientConnection, name: str) -> list[dict[str, Any]]:
    """Return the events up to the first one with this name."""
    events = [event(socket)]
    while events[-1]["event"] != name:
        events.append(event(socket))
    return events


def test_both_models_answer_and_the_page_gets_what_is_stored(conversation, live):
    with connected(live, conversation.user, conversation.pk) as socket:
        say(socket, do="ask", text="Why is the sky blue?")
        events = until(socket, "done")
    assert events[0] == {"event": "asked", "number": 1}
    turn = Turn.objects.get()
    for side, reply in turn.replies().items():
        pieces = [e["text"] for e in events if e["event"] == "piece" and e["side"] == side]
        assert "".join(pieces) == reply.text != ""
        assert reply.model == conversation.sides[side]
        assert reply.ending in (Reply.Ending.STOP, Reply.Ending.LENGTH)
    assert len({reply.seed for reply in turn.replies().values()}) == 1
    assert len({reply.text for reply in turn.replies().values()}) == 2
    votes.vote(turn, "left", conversation.user)


def test_stopping_ends_both_answers_and_keeps_what_was_written(conversation, live, monkeypatch):
    def store_right_late(turn, side, **fields):
        time.sleep(0.3 if side == Side.RIGHT else 0)
        return conversations.store_reply(turn, side, **fields)

    monkeypatch.setattr(streaming, "store_reply", store_right_late)
    type(conversation).objects.update(max_tokens=3000)
    with connected(live, conversation.user, conversation.pk) as socket:
        say(socket, do="ask", text="Tell me everything.")
        until(socket, "piece")
        say(socket, do="stop")
        until(socket, "done")
    replies = Turn.objects.get().replies()
    assert [reply.ending for reply in replies.values()] == [Reply.Ending.STOPPED] * 2
    assert any(reply.text for reply in replies.values())
    assert all(reply.tokens < 3000 for reply in replies.values())


def test_leaving_the_page_stops_the_answer(conversation, live):
    type(conversation).objects.update(max_tokens=3000)
    with connected(live, conversation.user, conversation.pk) as socket:
        say(socket, do="ask", text="Tell me everything.")
        until(socket, "piece")
    wait_until(lambda: Reply.objects.count() == 2)
    assert {r.ending for r in Turn.objects.get().replies().values()} == {Reply.Ending.STOPPED}


def test_without_a_model_server_the_page_gets_a_sentence_and_can_ask_again(
    conversation, live, settings, served
):
    with connected(live, conversation.user, conversation.pk) as socket:
        settings.MODEL_SERVER = Server("unix:/nowhere/models.sock")
        say(socket, do="ask", text="Hello?")
        failed = until(socket, "done")
        settings.MODEL_SERVER = served
        say(socket, do="again")
        answered = until(socket, "done")
    assert all("does not answer" in e["error"] for e in failed if e["event"] == "end")
    assert {e["ending"] for e in answered if e["event"] == "end"} <= {"stop", "length"}
    turn = Turn.objects.get()
    assert Reply.objects.count() == 4 and all(r.is_usable for r in turn.replies().values())


def test_a_model_server_killed_during_an_answer_is_reported_and_the_next_answer_works(
    conversation, live, settings, tmp_path
):
    type(conversation).objects.update(
        max_tokens=3000, temperature=0
    )  # they never stop by themselves
    with Running(tmp_path) as killed:
        settings.MODEL_SERVER = killed.server
        with connected(live, conversation.user, conversation.pk) as socket:
            say(socket, do="ask", text="Tell me everything.")
            text = ""
            while not any(character.isalnum() for character in text):
                text += until(socket, "piece")[-1]["text"]
            killed.process.kill()
            failed = [e for e in until(socket, "done") if e["event"] == "end"]
            assert [e["ending"] for e in failed] == ["failed"] * 2
            assert all("manage.py model_server" in e["error"] for e in failed)
            broken = Turn.objects.get().replies()
            assert any(reply.text for reply in broken.values()), "what was written is kept"

            type(conversation).objects.update(max_tokens=5)
            with killed:  # its supervisor starts it again
                say(socket, do="again")
                answered = [e for e in until(socket, "done") if e["event"] == "end"]
    assert {e["ending"] for e in answered} <= {"stop", "length"}
    replies = Turn.objects.get().replies()
    assert all(reply.is_usable for reply in replies.values())
    assert {reply.pk for reply in replies.values()}.isdisjoint(r.pk for r in broken.values())


@pytest.mark.parametrize("person", ["reviewer", "trainer", "lead_elsewhere"])
def test_nobody_else_can_write_in_a_conversation(conversation, live, people, person):
    with connected(live, people[person], conversation.pk) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=SECONDS)
        assert closed.value.rcvd and closed.value.rcvd.code == 4404


def test_a_reviewer_writes_in_an_own_chat_while_the_project_allows_it(conversation, live, people):
    own = conversations.start(
        user=people["reviewer"],
        models=[conversation.left],
        temperature=1.0,
        top_p=1.0,
        max_tokens=4,
    )
    Project.objects.update(reviewers_chat=True)
    with connected(live, people["reviewer"], own.pk) as socket:
        say(socket, do="ask", text="Hello?")
        until(socket, "done")
        Project.objects.update(reviewers_chat=False)
        say(socket, do="ask", text="And now?")
        assert "no longer write" in event(socket)["error"]
    assert Turn.objects.get().text == "Hello?"


def test_a_page_of_another_site_cannot_connect(conversation, live):
    with (
        pytest.raises(InvalidStatus),
        connected(live, conversation.user, conversation.pk, origin="http://evil.example"),
    ):
        pass


@pytest.mark.parametrize(
    "rubbish",
    [
        "not JSON",
        "[]",
        '"ask"',
        '{"do": "ask"}',
        '{"do": "ask", "text": 5}',
        "[" * 10_000,
        "{}",
    ],
)
def test_rubbish_is_refused_with_a_sentence(conversation, live, rubbish):
    with connected(live, conversation.user, conversation.pk) as socket:
        socket.send(rubbish)
        assert event(socket) == {
            "event": "refused",
            "error": "The page sent an unknown request. Reload it.",
        }
    assert not Turn.objects.exists()


def test_a_person_who_is_deactivated_can_no_longer_write(conversation, live):
    with connected(live, conversation.user, conversation.pk) as socket:
        User.objects.update(is_active=False)
        say(socket, do="ask", text="Hello?")
        assert "no longer write" in event(socket)["error"]
    assert not Turn.objects.exists()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)

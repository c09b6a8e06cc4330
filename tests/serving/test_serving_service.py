"""Tests of the gRPC service of the model server, in this process."""

import asyncio
import threading
from importlib import import_module
from typing import Any

import pytest

from finetune.training.serving.service import MAX_PAUSE, LanguageModels, merged
from serving.client import End, LanguageModel, Piece, Sampling, Start, chat_request
from serving.server import calls
from serving.server.engine import Engine, JobError, Limits
from tests.serving.test_serving_engine import make_memory
from tests.tiny import make_model

pytestmark = pytest.mark.torch

HI = [{"role": "user", "content": "Hi"}]


class Context:
    def time_remaining(self) -> float | None:
        return None


def test_the_event_loop_is_free_while_torch_is_imported(monkeypatch, tmp_path):
    loop_is_free = threading.Event()

    def import_slowly(name: str) -> Any:
        assert loop_is_free.wait(10)
        return import_module(name)

    monkeypatch.setattr(calls, "import_module", import_slowly)
    model = LanguageModel(str(make_model(tmp_path / "tiny")))
    request = chat_request(model, HI, Sampling(max_tokens=2), [])
    engine = Engine(make_memory, Limits())

    async def ask() -> list[Any]:
        asyncio.get_running_loop().call_soon(loop_is_free.set)
        return [event async for event in LanguageModels(engine).Chat(request, Context())]

    engine.start()
    try:
        events = asyncio.run(ask())
    finally:
        engine.stop()
    assert events[-1].WhichOneof("event") == "end"


def sent(*batches: list[Any]) -> list[Any]:
    """Return the events that are sent if each batch of events arrives during one pause."""
    arriving = list(batches)
    events: asyncio.Queue[Any] = asyncio.Queue()

    def arrive() -> float:
        for event in arriving.pop(0):
            events.put_nowait(event)
        return 0

    async def read() -> list[Any]:
        arrive()
        return [event async for event in until_the_end(merged(events, arrive))]

    return asyncio.run(read())


async def until_the_end(events: Any) -> Any:
    async for event in events:
        yield event
        if isinstance(event, End | JobError):
            return


def test_pieces_that_arrive_during_a_pause_are_one_message():
    start, end = Start(prompt_tokens=3, seed=1), End("stop", 4)
    pieces = [Piece(text, number) for number, text in enumerate("abcd", 1)]
    assert sent([start, pieces[0]], pieces[1:3], [pieces[3], end]) == [
        start, pieces[0], Piece("bc", 3), pieces[3], end,
    ]  # fmt: skip


@pytest.mark.parametrize("last", [End("stop", 2), JobError("INTERNAL", "Broken.")])
def test_the_end_or_an_error_follows_the_pieces_before_it(last):
    assert sent([Piece("a", 1), Piece("b", 2), last]) == [Piece("ab", 2), last]


def test_the_pause_grows_with_the_number_of_answers(monkeypatch):
    engine = Engine(make_memory, Limits())
    service = LanguageModels(engine)
    for jobs, pause in ((1, 0.01), (25, 0.25), (500, MAX_PAUSE)):
        monkeypatch.setattr(Engine, "jobs", jobs)
        assert service.pause() == pytest.approx(pause)

"""The service of language models on the model server.

This module does not need torch until the first request.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from serving.client import End, Event, LanguageModel, Piece, Sampling, Start
from serving.protocol import models_pb2 as pb
from serving.protocol import models_pb2_grpc
from serving.server.calls import deadline, import_later, mailbox
from serving.server.engine import Engine, JobError

MAX_CHARACTERS = 1_000_000
MAX_MESSAGES = 1_000
MAX_STOPS = 16
PAUSE_PER_JOB = 1 / 100
MAX_PAUSE = 0.5
"""Seconds between two messages of an answer. With many answers, messages cost more than their tokens."""


class LanguageModels(models_pb2_grpc.LanguageModelsServicer):
    """The service `LanguageModels` of the protocol."""

    def __init__(self, engine: Engine):
        self.engine = engine

    async def Chat(  # noqa: N802  # the name of the method in the protocol
        self, request: pb.ChatRequest, context: Any
    ) -> AsyncIterator[pb.ChatEvent]:
        check(request)
        answers = await import_later("finetune.training.serving.answers")
        events, emit = mailbox()
        job = answers.Answer(
            LanguageModel(request.model.base, request.model.adapter, request.model.dtype),
            [{"role": turn.role, "content": turn.content} for turn in request.messages],
            sampling_of(request.sampling),
            [stop for stop in request.stop if stop],
            until=deadline(context),
            limits=self.engine.limits,
            emit=emit,
        )
        self.engine.submit(job)
        try:
            async for event in merged(events, self.pause):
                if isinstance(event, JobError):
                    raise event
                yield message_of(event)
                if isinstance(event, End):
                    return
        finally:
            job.cancelled = True

    def pause(self) -> float:
        """Return the seconds to wait after a piece of an answer; 10 ms if it is the only answer."""
        return min(self.engine.jobs * PAUSE_PER_JOB, MAX_PAUSE)


async def merged(
    events: "asyncio.Queue[Any]", pause: Callable[[], float]
) -> AsyncIterator[Event | JobError]:
    """Yield the events. Pieces that arrive during the pause after a piece are merged into the next."""
    while True:
        event = await events.get()
        following: Any = None
        while isinstance(event, Piece) and following is None and not events.empty():
            following = events.get_nowait()
            if isinstance(following, Piece):
                event = Piece(event.text + following.text, following.tokens)
                following = None
        yield event
        if following is not None:
            yield following
        elif isinstance(event, Piece):
            await asyncio.sleep(pause())


def check(request: pb.ChatRequest) -> None:
    """Raise JobError for a request that no model can answer."""
    characters = sum(len(turn.role) + len(turn.content) for turn in request.messages)
    problems = {
        "The request names no model.": not request.model.base,
        "The request has no messages.": not request.messages,
        "A message has no role.": not all(turn.role for turn in request.messages),
        f"A chat may have at most {MAX_MESSAGES} messages.": len(request.messages) > MAX_MESSAGES,
        f"A chat may have at most {MAX_CHARACTERS:,} characters.": characters > MAX_CHARACTERS,
        f"A request may have at most {MAX_STOPS} stop texts.": len(request.stop) > MAX_STOPS,
    }
    for problem, present in problems.items():
        if present:
            raise JobError("INVALID_ARGUMENT", problem)


def sampling_of(message: pb.Sampling) -> Sampling:
    """Return the sampling of a request, with the defaults for fields that are not set."""
    optional = ("temperature", "top_p", "repetition_penalty", "seed")
    values = {name: getattr(message, name) for name in optional if message.HasField(name)}
    return Sampling(
        top_k=message.top_k, min_p=message.min_p, max_tokens=message.max_tokens, **values
    )


def message_of(event: Event) -> pb.ChatEvent:
    match event:
        case Start():
            start = pb.Start(prompt_tokens=event.prompt_tokens, seed=event.seed, dtype=event.dtype)
            return pb.ChatEvent(start=start)
        case Piece():
            return pb.ChatEvent(piece=pb.Piece(text=event.text, tokens=event.tokens))
    reason = pb.End.LENGTH if event.reason == "length" else pb.End.STOP
    return pb.ChatEvent(end=pb.End(reason=reason, tokens=event.tokens))

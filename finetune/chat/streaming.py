"""Ask the model server for the answers to a message, and store them however they end."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings

from finetune.chat.conversations import chat_before, store_reply
from finetune.models import Conversation, Reply, Turn
from finetune.serving.clients import client_for
from finetune.serving.names import served_together
from labeling.core.text import storable
from serving.client import End, LanguageModel, Piece, Sampling, Start
from serving.errors import ServingError

Send = Callable[[dict[str, Any]], Awaitable[None]]
"""A function that sends an event to the page: `piece` with a text, or `end` with how it ended."""
MAX_SEED = 2**31


@dataclass(frozen=True)
class Question:
    """The request to the models of a conversation, read from the database beforehand."""

    turn: Turn
    messages: list[dict[str, str]]
    models: dict[str, LanguageModel]
    sampling: Sampling

    @classmethod
    def of(cls, turn: Turn) -> "Question":
        """Read the question of a turn. Both models get the same seed."""
        conversation: Conversation = turn.conversation
        sides = conversation.sides
        return cls(
            turn,
            chat_before(turn),
            dict(zip(map(str, sides), _for_chats(served_together(sides.values())), strict=True)),
            Sampling(
                temperature=conversation.temperature,
                top_p=conversation.top_p,
                seed=random.randrange(MAX_SEED),
                max_tokens=conversation.max_tokens,
            ),
        )


def _for_chats(models: list[LanguageModel]) -> list[LanguageModel]:
    """Return models with the number format of chats. Both sides of a chat have the same."""
    return [replace(model, dtype=settings.CHAT_DTYPE) for model in models]


async def answer(question: Question, send: Send) -> None:
    """Stream the answers of all models of the conversation to the page, and store them.

    If this is cancelled, the model server stops before its next token, and the answers so far are
    stored as stopped. This ends when both are stored, which asyncio.gather would not wait for.
    """
    async with asyncio.TaskGroup() as group:
        for side in question.models:
            group.create_task(_answer_of(side, question, send))


async def _answer_of(side: str, question: Question, send: Send) -> None:
    text, tokens, seed, dtype = "", 0, question.sampling.seed, ""
    ending, error = Reply.Ending.STOPPED, ""
    model = question.models[side]
    try:
        async with (
            client_for(model) as client,
            aclosing(client.chat(model, question.messages, question.sampling)) as events,
        ):
            async for event in events:
                match event:
                    case Start():
                        seed, dtype = event.seed, event.dtype
                    case Piece():
                        piece, tokens = storable(event.text), event.tokens
                        text += piece
                        await send({"event": "piece", "side": side, "text": piece})
                    case End():
                        ending, tokens = Reply.Ending(event.reason), event.tokens
    except ServingError as problem:
        ending, error = Reply.Ending.FAILED, str(problem)
    finally:
        # The answer is stored even while this task is cancelled.
        storing = database_sync_to_async(store_reply)(
            question.turn,
            side,
            text=text,
            ending=ending,
            tokens=tokens,
            seed=seed,
            dtype=dtype,
            error=error,
        )
        await asyncio.shield(asyncio.ensure_future(storing))
    await send({"event": "end", "side": side, "ending": ending, "error": error})

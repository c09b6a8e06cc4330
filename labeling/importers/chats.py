"""Whole conversations: the last answer of the assistant is a response to what comes before it.

    {"messages": [{"role": "user", …}, {"role": "assistant", …}], "model": …}
    {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}

Conversations that begin alike and follow each other in the file are responses to one prompt. A
conversation that ends with its user is a prompt alone.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from labeling.importers.conversations import (
    Draft,
    Messages,
    as_messages,
    from_json,
    plain_meta,
    text_of,
)
from labeling.importers.records import BadInput, PromptRecord, Tally
from labeling.importers.source import rows

NAMES = ("messages", "conversations", "conversation", "chat")
MODEL = ("model", "model_name")
ROLES = ("assistant", "gpt", "bot", "model", "chatgpt")


def recognises(first: Any) -> bool:
    chat = _chat(first)
    if not isinstance(chat, list) or not chat or not isinstance(chat[-1], dict):
        return False
    if "messages" not in first:
        return True
    return str(chat[-1].get("role", chat[-1].get("from"))).lower() in ROLES


def _chat(row: Any) -> Any:
    if not isinstance(row, dict):
        return None
    return from_json(next((row[name] for name in NAMES if row.get(name)), None))


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    read = (_split(line, row, tally) for line, row in rows(path))
    for _, same in groupby(read, key=lambda one: one[1]):
        line, messages, reply, row = next(same)
        draft = Draft(
            line, messages, external_id=text_of(row, ("id",)), meta=plain_meta(row, (*MODEL, "id"))
        )
        for text, one in [(reply, row), *((text, one) for _, _, text, one in same)]:
            if text is not None:
                draft.place(text, text_of(one, MODEL))
        yield from draft.records(tally)


def _split(line: int, row: Any, tally: Tally) -> tuple[int, Messages, str | None, dict[str, Any]]:
    chat = _chat(row)
    if chat is None:
        raise BadInput(f"there is no conversation; it is called {', '.join(NAMES)}.", line)
    tally.read["conversations"] += 1
    messages = as_messages(chat, line, "messages")
    if messages[-1]["role"] != "assistant":
        return line, messages, None, row
    if len(messages) == 1:
        raise BadInput("the conversation is an answer to nothing.", line)
    return line, messages[:-1], messages[-1]["content"], row

"""Read a row's prompt: a text, a chat, or a system message and earlier turns before either."""

from typing import Any

from labeling.importing.formats.columns import values
from labeling.importing.formats.columns.source_row import SourceRow
from labeling.importing.formats.conversations import Messages
from labeling.importing.records import BadInput


def read_prompt(row: SourceRow) -> Messages:
    """Return the messages in the prompt columns, or [] if these are empty.

    Texts in several columns become one message.
    """
    names = row.columns["prompt"]
    parts = [
        values.chat_or_text(row.source, name)
        for name in names
        if row.source.get(name) not in (None, "", [])
    ]
    if len(parts) > 1:
        texts = [values.as_text(part) for part in parts]
        if all(text is not None for text in texts):
            parts = ["\n\n".join(text for text in texts if text)]
    messages: Messages = []
    for part in parts:
        messages += values.messages(part, row.line, names[0], row.tally)
    return [*system_and_history(row), *messages] if messages else []


def system_and_history(row: SourceRow) -> Messages:
    """Return the messages that come before the prompt: the system message and earlier turns."""
    if not row.columns["system"] and not row.columns["history"]:
        return []
    system = row.text("system")
    start: Messages = [{"role": "system", "content": system}] if system else []
    for name in row.columns["history"]:
        turns = values.structure(row.source, name) or []
        if not isinstance(turns, list):
            raise BadInput(f'"{name}" must be a list of turns; got {turns!r:.40}.', row.line)
        for turn in turns:
            start += _turn(row, name, turn)
    return start


def _turn(row: SourceRow, name: str, turn: Any) -> Messages:
    """Return one element of the history as messages.

    The element may be a question with its answer, a message, or a text.
    """
    if values.is_message(turn):
        return [values.message(turn, row.line, name, row.tally, f"{name}[].")]
    texts = values.texts(turn if isinstance(turn, list) else [turn])
    if texts is None:
        raise BadInput(f'a turn in "{name}" must be text; got {str(turn)[:40]}.', row.line)
    return values.turns(texts)


def read_chat(row: SourceRow) -> tuple[Messages, str | None] | None:
    """Return the prompt and the last answer of the chat column, or None if it is empty.

    The answer is None if the last message is not the assistant's.
    """
    for name in row.columns["chat"]:
        value = values.structure(row.source, name)
        if value in (None, "", []):
            continue
        chat = [*system_and_history(row), *values.messages(value, row.line, name, row.tally)]
        if chat[-1]["role"] != "assistant":
            return chat, None
        if not any(message["role"] == "user" for message in chat):
            raise BadInput(f'the chat in "{name}" has no user message before the answer.', row.line)
        return chat[:-1], chat[-1]["content"]
    return None


def require_prompt(row: SourceRow, messages: Messages) -> Messages:
    """Return the messages of a prompt unchanged. Raises BadInput if there are none."""
    if not messages:
        names = ", ".join(row.columns["prompt"] or row.columns["chat"]) or "prompt"
        raise BadInput(f'the row has no prompt ("{names}" is empty).', row.line)
    return messages

"""Read a row's pair: a better and a worse response, or several responses on each side."""

from collections.abc import Sequence
from typing import Any

from labeling.importing.formats.columns import values
from labeling.importing.formats.columns.answers import Answer, Content, Verdict
from labeling.importing.formats.columns.attributes import set_ids, set_models
from labeling.importing.formats.columns.prompts import read_chat, read_prompt, system_and_history
from labeling.importing.formats.columns.source_row import APART, NO_RESPONSE, SourceRow
from labeling.importing.formats.conversations import Messages, same_start
from labeling.importing.records import BadInput


def read_pair(row: SourceRow) -> Content | None:
    """Return the prompt, the responses and the preference of a row with chosen or rejected responses.

    Two chats that differ in more than the last answer are counted as left out, and the result is None.
    """
    sides = [(n, "chosen") for n in row.columns["chosen"]]
    sides += [(n, "rejected") for n in row.columns["rejected"]]
    candidates = [
        (name, side, part)
        for name, side in sides
        for part in _parts(row, values.chat_or_text(row.source, name))
    ]
    prompt = read_prompt(row)
    if not prompt and (chat := read_chat(row)):
        prompt = chat[0] if chat[1] is None else [*chat[0], _assistant(chat[1])]
    if not prompt:
        return _whole_chats(row, candidates)
    answers = [Answer(_answer_of(row, part, prompt, name), name) for name, _, part in candidates]
    return prompt, *_ordered(row, answers, [side for _, side, _ in candidates])


def _parts(row: SourceRow, value: Any) -> list[Any]:
    """Return the answers on one side of a pair. A list of texts contains several answers."""
    if value in (None, ""):
        return []
    if isinstance(value, str):
        return [value]
    texts = values.texts(value)
    if texts is None:
        return [value]
    row.tally.left_out[NO_RESPONSE] += len(value) - len(texts)
    return list(texts)


def _answer_of(row: SourceRow, value: Any, prompt: Messages, name: str) -> str:
    """Return the answer on one side, without the prompt, which may be repeated before the answer."""
    if (text := values.as_text(value)) is not None:
        return text
    chat = values.messages(value, row.line, name, row.tally)
    shared = len(prompt) if chat[: len(prompt)] == prompt else 0
    without = [m for m in prompt if m["role"] != "system"]
    if not shared and chat[: len(without)] == without:
        shared = len(without)
    rest = chat[shared:]
    if len(rest) != 1 or rest[0]["role"] != "assistant":
        raise BadInput(
            f'"{name}" must contain one assistant message after the prompt; it contains '
            f"{len(rest)} messages that are not in the prompt.",
            row.line,
        )
    return rest[0]["content"]


def _whole_chats(row: SourceRow, candidates: Sequence[tuple[str, str, Any]]) -> Content | None:
    """Split whole chats into the prompt, which is their common beginning, and their last answers."""
    chats = [
        values.messages(part, row.line, name, row.tally)
        for name, _, part in candidates
        if values.as_text(part) is None
    ]
    if len(chats) < 2 or len(chats) < len(candidates):
        raise BadInput(
            "no column contains the prompt, and the responses are texts. Choose the prompt's column.",
            row.line,
        )
    shared = min(same_start(chats[0], other) for other in chats[1:])
    shared = min(shared, *(len(chat) - 1 for chat in chats))
    if not shared or any(
        len(chat) != shared + 1 or chat[-1]["role"] != "assistant" for chat in chats
    ):
        row.tally.left_out[APART] += 1
        return None
    answers = [
        Answer(chat[-1]["content"], name)
        for chat, (name, _, _) in zip(chats, candidates, strict=True)
    ]
    prompt = [*system_and_history(row), *chats[0][:shared]]
    return prompt, *_ordered(row, answers, [side for _, side, _ in candidates])


def _ordered(
    row: SourceRow, answers: list[Answer], sides: list[str]
) -> tuple[list[Answer], Verdict | None]:
    set_models(row, answers)
    set_ids(row, answers)
    chosen = [n for n, side in enumerate(sides) if side == "chosen" and answers[n].text.strip()]
    rejected = [n for n, side in enumerate(sides) if side == "rejected" and answers[n].text.strip()]
    if not chosen or not rejected:
        row.tally.left_out["pairs with only one side"] += 1
        return [answer for answer in answers if answer.text.strip()], None
    return answers, Verdict([chosen, rejected])


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}

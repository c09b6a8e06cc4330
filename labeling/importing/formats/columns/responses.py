"""Read a row's responses: texts, objects, lists of both, or whole chats."""

from typing import Any

from labeling.importing.files.rows import Cells
from labeling.importing.formats.columns import values
from labeling.importing.formats.columns.answers import Answer, Content, Verdict
from labeling.importing.formats.columns.attributes import set_ids, set_marks, set_models
from labeling.importing.formats.columns.prompts import (
    read_chat,
    read_prompt,
    require_prompt,
    system_and_history,
)
from labeling.importing.formats.columns.source_row import APART, NO_RESPONSE, SourceRow
from labeling.importing.formats.columns.verdicts import read_verdict
from labeling.importing.formats.conversations import Messages, name_of, number
from labeling.importing.records import BadInput

TEXT = ("text", "response", "content", "answer", "output", "completion", "generation", "value")
MODEL = ("model", "model_name", "generator")
ID = ("id", "response_id", "answer_id", "completion_id", "output_id", "external_id", "uuid")
RANK = ("rank",)
SCORE = ("score", "overall_score", "rating", "reward")


def read_responses(row: SourceRow) -> Content | None:
    """Return the prompt, the responses and the preference of a row.

    Chats that differ in more than the last answer are counted as left out, and the result is None.
    """
    if isinstance(row.source, Cells) and (turns := _turns(row, row.source)):
        return _whole_chats(row, turns)
    prompt = read_prompt(row)
    answers: list[Answer] = []
    chats = [_named_chat(row, name) for name in row.columns["response"] if _is_chat(row, name)]
    if chat := read_chat(row):
        start, text = chat
        prompt = prompt or start
        if text is not None:
            answers.append(Answer(text, row.columns["chat"][0]))
    elif chats and not prompt:
        return _whole_chats(row, chats)
    best_first = False
    for meaning in ("response", "best_first"):
        for name in row.columns[meaning]:
            answers += _responses_in(row, name)
            best_first = best_first or meaning == "best_first"
    set_models(row, answers)
    set_ids(row, answers)
    set_marks(row, answers)
    answers = _without_empty(row, answers)  # only now, as lists of marks include empty responses
    verdict = read_verdict(row, answers)
    if best_first and len(answers) > 1:
        verdict = Verdict([[n] for n in range(len(answers))])
    return require_prompt(row, prompt), answers, verdict


def _turns(row: SourceRow, cells: Cells) -> list[tuple[str, Messages]]:
    """Return chats from cells with a list of prompts and lists of equally many answers."""
    if len(row.columns["prompt"]) != 1:
        return []
    questions = values.structure(cells, row.columns["prompt"][0])
    replies = [(name, values.structure(cells, name)) for name in row.columns["response"]]
    if not _texts(questions) or not replies:
        return []
    if not all(_texts(texts) and len(texts) == len(questions) for _, texts in replies):
        return []
    return [
        (
            name,
            values.turns([text for pair in zip(questions, texts, strict=True) for text in pair]),
        )
        for name, texts in replies
    ]


def _is_chat(row: SourceRow, name: str) -> bool:
    value = values.structure(row.source, name)
    return isinstance(value, list) and len(value) > 1 and values.is_chat(value)


def _named_chat(row: SourceRow, name: str) -> tuple[str, Messages]:
    value = values.structure(row.source, name)
    return name, values.messages(value, row.line, name, row.tally)


def _whole_chats(row: SourceRow, chats: list[tuple[str, Messages]]) -> Content | None:
    """Return chats with different models as a comparison, if only their last answers differ."""
    first = chats[0][1]
    if any(chat[:-1] != first[:-1] or chat[-1]["role"] != "assistant" for _, chat in chats):
        row.tally.left_out[APART] += 1
        return None
    answers = [Answer(chat[-1]["content"], name) for name, chat in chats]
    set_models(row, answers)
    set_ids(row, answers)
    set_marks(row, answers)
    return [*system_and_history(row), *first[:-1]], answers, read_verdict(row, answers)


def _responses_in(row: SourceRow, name: str) -> list[Answer]:
    value = values.chat_or_text(row.source, name)
    if value in (None, ""):
        if name in row.source and value == "":
            row.tally.left_out[NO_RESPONSE] += 1
        return []
    listed = values.structure(row.source, name) if name.lower().endswith("s") else value
    if isinstance(listed, str) and isinstance(value, str):
        return [Answer(value, name)]  # the usual case
    if isinstance(listed, list) and not values.is_chat(listed):
        return [_one_of(row, part, name, f"{name}[]") for part in listed]
    if isinstance(value, dict) and not values.is_message(value):
        return [_one_of(row, value, name, name)]
    return [Answer(values.reply(value, row.line, name, row.tally), name)]


def _without_empty(row: SourceRow, answers: list[Answer]) -> list[Answer]:
    filled = [answer for answer in answers if answer.text.strip()]
    if len(filled) < len(answers):
        row.tally.left_out[NO_RESPONSE] += len(answers) - len(filled)
    return filled


def _one_of(row: SourceRow, part: Any, name: str, path: str) -> Answer:
    """Return a response from a list. It may have a model, rank and score."""
    if part is None:
        return Answer("", name)
    if not isinstance(part, dict):
        return Answer(values.reply(part, row.line, path, row.tally), name)
    own = next((k for k in ID if name_of(part.get(k))), "")
    model = next((k for k in MODEL if part.get(k)), "")
    rank = next((k for k in RANK if number(part.get(k)) is not None), "")
    score = next((k for k in SCORE if number(part.get(k)) is not None), "")
    meaning = {own: "response_id", model: "model", rank: "rank", score: "score"}
    meaning.pop("", None)  # the key of marks that the element does not have
    marks = {k: part[k] for k in part if k in meaning}
    row.tally.columns.add(marks, meaning, prefix=f"{path}.")
    return Answer(
        _text_of(row, {k: part[k] for k in part if k not in marks}, name, path),
        name,
        model=str(part.get(model) or ""),
        external_id=name_of(part.get(own)),
        rank=number(part.get(rank)),
        score=number(part.get(score)),
    )


def _text_of(row: SourceRow, part: dict[str, Any], name: str, path: str) -> str:
    """Return the text of a response that is a message or another object."""
    if values.is_message(part):
        return values.reply(part, row.line, path, row.tally)
    key = next((key for key in TEXT if part.get(key) is not None), None)
    if key is None:
        raise BadInput(
            f'a response in "{name}" has no text; it has {", ".join(part) or "nothing"}.',
            row.line,
        )
    row.tally.columns.add(part, {key: "response"}, prefix=f"{path}.")
    return values.reply(part[key], row.line, f"{path}.{key}", row.tally)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)

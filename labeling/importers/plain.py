"""Prompts alone or with responses, as JSON lines, CSV or Parquet.

One row is a prompt with all its responses (`responses`, or `response_1`, `response_2`, …), or one
response to a prompt (`response`): rows of the same prompt that follow each other belong together.
The prompt is a text or a chat. A prompt with two to nine responses becomes a task for reviewers.

| column | also called |
|---|---|
| `prompt` | `messages`, `instruction` (with `input`), `question`, `query` |
| `system` | `system_prompt` |
| `response` | `completion`, `answer`, `output` |
| `responses` | `completions`, `answers`, `generations` |
| `response_1`, … | `response1`, `response_a`, `answer_1`, … |
| `model` | `model_name`; `models`, `model_1`, … for several |
| `id` | `prompt_id` |

Other columns with short values are kept with the prompt.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from labeling.importers.conversations import (
    Draft,
    Messages,
    as_messages,
    as_reply,
    from_json,
    plain_meta,
    text_of,
)
from labeling.importers.records import BadInput, PromptRecord, Tally
from labeling.importers.source import objects

PROMPT = ("prompt", "messages", "instruction", "question", "query")
SYSTEM = ("system", "system_prompt")
ONE = ("response", "completion", "answer", "output")
SEVERAL = ("responses", "completions", "answers", "generations")
NUMBERED = re.compile(r"(?:response|completion|answer|output)[_ ]?([1-9]|[a-i])", re.IGNORECASE)
MODEL = ("model", "model_name")
MODELS = ("models", "model_names")
ID = ("id", "prompt_id")


def recognises(first: Any) -> bool:
    return isinstance(first, dict) and any(name in first for name in PROMPT)


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    read = ((line, _messages(row, line), row) for line, row in objects(path))
    for _, same in groupby(read, key=lambda one: one[1]):
        yield from _draft(same, tally).records(tally)


def _messages(row: dict[str, Any], line: int) -> Messages:
    name = next((name for name in PROMPT if row.get(name) not in (None, "", [])), None)
    if name is None:
        raise BadInput(f"there is no prompt; a column is called {', '.join(PROMPT)}.", line)
    messages = as_messages(row[name], line, name)
    if name == "instruction" and row.get("input"):
        messages = [{"role": "user", "content": f"{row[name]}\n\n{row['input']}"}]
    system = text_of(row, SYSTEM)
    return [{"role": "system", "content": system}, *messages] if system else messages


def _draft(same: Iterator[tuple[int, Messages, dict[str, Any]]], tally: Tally) -> Draft:
    line, messages, row = next(same)
    draft = Draft(line, messages, external_id=text_of(row, ID), meta=plain_meta(row, _used(row)))
    _add(draft, row, line, tally)
    for line, _, row in same:
        _add(draft, row, line, tally)
    return draft


def _add(draft: Draft, row: dict[str, Any], line: int, tally: Tally) -> None:
    tally.read["rows"] += 1
    for text, model in _responses(row, line):
        before = len(draft.responses)
        draft.place(text, model)
        tally.left_out["responses said twice"] += len(draft.responses) == before


def _responses(row: dict[str, Any], line: int) -> Iterator[tuple[str, str]]:
    model = text_of(row, MODEL)
    for name in ONE:
        if row.get(name) is not None:
            yield as_reply(row[name], line, name), model
    models = _models(row)
    for name in SEVERAL:
        for place, one in enumerate(_list(row.get(name), name, line)):
            yield _one_of_several(one, models.get(str(place + 1), model), name, line)
    for name in sorted(filter(NUMBERED.fullmatch, row)):
        if row[name] is not None:
            yield as_reply(row[name], line, name), models.get(_number(name), model)


def _models(row: dict[str, Any]) -> dict[str, str]:
    """Model by the number or letter of its response."""
    listed: Any = next((from_json(row[name]) for name in MODELS if row.get(name)), [])
    models = (
        {str(n): str(name) for n, name in enumerate(listed, 1)} if isinstance(listed, list) else {}
    )
    for name, value in row.items():
        if (found := re.fullmatch(r"model(?:_name)?[_ ]?([1-9]|[a-i])", name)) and value:
            models[found[1]] = str(value)
    return models


def _number(name: str) -> str:
    found = NUMBERED.fullmatch(name)
    return found[1].lower() if found else ""


def _list(value: Any, name: str, line: int) -> list[Any]:
    found = from_json(value)
    if found is None:
        return []
    if not isinstance(found, list):
        raise BadInput(f'"{name}" must be a list.', line)
    return found


def _one_of_several(one: Any, model: str, name: str, line: int) -> tuple[str, str]:
    if isinstance(one, dict) and "role" not in one:
        text = text_of(one, ("text", "content", "response"))
        return text, text_of(one, MODEL) or model
    return as_reply(one, line, name), model


def _used(row: dict[str, Any]) -> set[str]:
    known = {*PROMPT, *SYSTEM, *ONE, *SEVERAL, *MODEL, *MODELS, *ID, "input"}
    return known | {name for name in row if NUMBERED.fullmatch(name) or name.startswith("model")}

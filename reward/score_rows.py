"""Rows to score: lines of JSON or rows of Parquet, each in one of three shapes.

    {messages}             a conversation that ends with the response
    {prompt, response}     the prompt as text or messages
    {prompt, responses}    several responses to one prompt

Needs neither Django nor torch; the command, the API and the recipe read the same.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from runs import faults

ROWS_AT_ONCE = 256
WRONG_ROWS_TOLD = 10

Messages = list[dict[str, str]]


class RowsError(ValueError):
    """The file cannot be scored; the text says which rows are wrong and why."""


@dataclass(frozen=True)
class Asked:
    """A prompt and the responses to score; `many` when the row has a list of them."""

    prompt: Messages
    responses: list[str]
    many: bool


def asked_in(raw: Any) -> Asked:
    """Raises ValueError with a clause that says what is wrong with the row."""
    if not isinstance(raw, dict):
        raise ValueError("it is not a JSON object")
    if raw.get("messages") is not None:
        return asked_by_messages(raw["messages"])
    if raw.get("prompt") is None:
        raise ValueError("it has neither messages nor prompt")
    prompt = messages_in(raw["prompt"], "prompt")
    if raw.get("responses") is not None:
        texts = raw["responses"]
        if not isinstance(texts, list) or not texts:
            raise ValueError("responses is not a list of texts")
        return Asked(prompt, [text_in(text, "a response") for text in texts], many=True)
    if raw.get("response") is None:
        raise ValueError("it has a prompt, and neither response nor responses")
    return Asked(prompt, [text_in(raw["response"], "response")], many=False)


def asked_by_messages(value: Any) -> Asked:
    """A conversation that ends with the response. Raises ValueError with a clause."""
    *prompt, answer = messages_in(value, "messages")
    if answer["role"] != "assistant":
        raise ValueError(
            "messages do not end with an answer: the last role must be assistant, "
            f"and is {answer['role']!r}"
        )
    if not prompt:
        raise ValueError("messages hold an answer and nothing that it answers")
    return Asked(prompt, [answer["content"]], many=False)


def messages_in(value: Any, name: str) -> Messages:
    """Text is one turn of the user. Raises ValueError with a clause."""
    if isinstance(value, str):
        return [{"role": "user", "content": text_in(value, name)}]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is neither text nor a list of messages")
    return [_turn_in(turn, name) for turn in value]


def _turn_in(turn: Any, name: str) -> dict[str, str]:
    if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
        raise ValueError(f"{name} has a message without role and content")
    return {key: text_in(turn[key], f"a {key} in {name}") for key in ("role", "content")}


def text_in(value: Any, name: str) -> str:
    """Raises ValueError for anything but text, and for text that no encoding can write."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} holds half of a surrogate pair, which is not a character"
        ) from None
    return value


# --- files ----------------------------------------------------------------------------------------


def is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def raw_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Row number from 1 (for JSON, the line) and the row; a line that is not JSON is a ValueError.

    Streams: memory stays the same for a file of any size. Raises RowsError when it cannot be read.
    """
    try:
        if is_parquet(path):
            with pq.ParquetFile(path) as file:
                batches = file.iter_batches(batch_size=ROWS_AT_ONCE)
                yield from enumerate((row for b in batches for row in b.to_pylist()), 1)
            return
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _json_in(line)
    except faults.TABLE_ERRORS as error:
        if is_parquet(path):
            raise RowsError(faults.table_problem(path, error)) from None
        raise RowsError(f"{path} cannot be read: {error}.") from None


def _json_in(line: str) -> Any:
    try:
        return json.loads(line, parse_constant=lambda name: None)  # NaN is not JSON
    except json.JSONDecodeError as error:
        return ValueError(f"not valid JSON: {error.msg}")
    except RecursionError:
        return ValueError("not valid JSON: it is nested too deeply")
    except ValueError:
        return ValueError("a number has too many digits")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any], Asked]]:
    """Raises RowsError at the first row that is wrong; `survey` tells them all."""
    for number, raw in raw_rows(path):
        try:
            yield number, raw, _asked_or_error(raw)
        except ValueError as error:
            raise RowsError(f"{path}, row {number}: {error}.") from None


def survey(path: Path) -> Counter[str]:
    """How many `rows` and `responses` there are, and rows `with_one` and `with_many` responses.

    Reads the whole file. Raises RowsError with the number of every wrong row, ten at most.
    """
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for number, raw in raw_rows(path):
        try:
            asked = _asked_or_error(raw)
        except ValueError as error:
            wrong.append(f"{path}, row {number}: {error}.")
            if len(wrong) == WRONG_ROWS_TOLD:
                break
            continue
        counts["rows"] += 1
        counts["responses"] += len(asked.responses)
        counts["with_many" if asked.many else "with_one"] += 1
    if wrong:
        raise RowsError("\n".join(wrong))
    if not counts["rows"]:
        raise RowsError(f"{path} has no rows.")
    return counts


def _asked_or_error(raw: Any) -> Asked:
    if isinstance(raw, ValueError):
        raise raw
    return asked_in(raw)

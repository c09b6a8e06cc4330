"""Rows to score: lines of JSON or rows of Parquet, each in one of three shapes.

    {messages}             a conversation that ends with the response
    {prompt, response}     the prompt as text or messages
    {prompt, responses}    several responses to one prompt

Needs neither Django nor torch; the command, the API and the recipe read the same.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recipes import faults

ROWS_AT_ONCE = 256
WRONG_ROWS_TOLD = 10
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Messages = list[dict[str, str]]


class RowsError(ValueError):
    """The file cannot be scored; the text says which rows are wrong and why."""


@dataclass(frozen=True)
class Asked:
    """A prompt and the responses to score; `many` when the row has a list of them."""

    prompt: Messages
    responses: list[str]
    many: bool
    unread: frozenset[int] = frozenset()
    """Places of responses that get no score: null, or an answer to something that is not text."""


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


# --- values as files hold them --------------------------------------------------------------------

ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant",
    "model": "assistant", "chatgpt": "assistant", "function": "tool", "developer": "system",
}  # fmt: skip
TEXT_PARTS = ("text", "input_text", "output_text")
_UNREADABLE = re.compile("[\x00\ud800-\udfff]")


def asked_of(raw: Any) -> Asked:
    """Read a row of a file as imports read it. Raises ValueError with a clause.

    Numbers and true or false are text, texts of content parts are joined, and characters that are
    none (half a surrogate pair, NUL) are replaced by U+FFFD. A response that is null, or that
    answers an image, gets no score: the model would read a part only.
    """
    if not isinstance(raw, dict):
        raise ValueError("it is not a JSON object")
    chat = next((raw[name] for name in ("messages", "conversations") if holds(raw.get(name))), None)
    if chat is not None:
        turns, whole = chat_of(chat, "messages")
        asked = asked_by_messages(turns)
        return replace(asked, unread=frozenset() if whole else frozenset([0]))
    if not holds(raw.get("prompt")):
        raise ValueError("it has neither messages nor prompt")
    prompt, whole = chat_of(raw["prompt"], "prompt")
    given, many = raw.get("responses"), raw.get("responses") is not None
    if many and (not isinstance(given, list) or not given):
        raise ValueError("responses is not a list of texts")
    if not many and "response" not in raw:
        raise ValueError("it has a prompt, and neither response nor responses")
    answers: list[Any] = list(given or []) if many else [raw["response"]]
    texts = [None if is_nothing(a) else answer_of(a, "a response") for a in answers]
    places = {n for n, text in enumerate(texts) if text is None or not whole}
    return Asked(prompt, [text or "" for text in texts], many, frozenset(places))


def holds(value: Any) -> bool:
    """Whether a value is there: 0 and false are; null, NaN and what is empty are not."""
    return not is_nothing(value) and value not in ("", [], {})


def is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def text_of(value: Any) -> str | None:
    """Return a text, number or truth value as a text that can be read; None for anything else."""
    if isinstance(value, str):
        return _UNREADABLE.sub("\ufffd", value)
    if isinstance(value, bool | int | float) and not is_nothing(value):
        return json.dumps(value)
    return None


def answer_of(value: Any, name: str) -> str:
    """Return one answer: a text, or a message of the assistant. Raises ValueError with a clause."""
    if (text := text_of(value)) is not None:
        return text
    turns, whole = chat_of(value, name) if isinstance(value, dict | list) else ([], False)
    if len(turns) != 1 or turns[0]["role"] != "assistant" or not whole:
        raise ValueError(f"{name} is not text")
    return turns[0]["content"]


def chat_of(value: Any, name: str) -> tuple[Messages, bool]:
    """Return a text or a chat as messages, and whether they are the whole of it.

    Raises ValueError with a clause.
    """
    if isinstance(value, dict):
        value = value.get("messages", [value])
    if (text := text_of(value)) is not None:
        return [{"role": "user", "content": text}], True
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is neither text nor a list of messages")
    turns = [_turn_of(turn, name) for turn in value]
    return [turn for turn, _ in turns], all(whole for _, whole in turns)


def _turn_of(turn: Any, name: str) -> tuple[dict[str, str], bool]:
    fields = turn if isinstance(turn, dict) else {}
    role = fields.get("role") or fields.get("from")
    content = next((fields[n] for n in ("content", "value") if fields.get(n) is not None), None)
    if not isinstance(role, str) or content is None:
        raise ValueError(f"{name} has a message without role and content")
    text, whole = _joined(content)
    if text is None:
        raise ValueError(f"{name} has a message whose content is not text")
    return {"role": ROLES.get(role.lower(), role.lower()), "content": text}, whole


def _joined(content: Any) -> tuple[str | None, bool]:
    """Return the text of a message, of which parts may be images, and whether that is all of it."""
    if not isinstance(content, list):
        return text_of(content), True
    texts = [_text_of_part(part) for part in content]
    kept = [text for text in texts if text is not None]
    return "\n\n".join(kept) if content else None, len(kept) == len(texts)


def _text_of_part(part: Any) -> str | None:
    if isinstance(part, dict):
        part = part.get("text") if part.get("type", "text") in TEXT_PARTS else None
    return text_of(part)


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
        with path.open("rb") as lines:  # bytes: a text may hold U+2028, which ends no line
            for number, line in enumerate(lines, 1):
                if line.removeprefix(BYTE_ORDER_MARK).strip():
                    yield number, _json_in(line.removeprefix(BYTE_ORDER_MARK))
    except faults.TABLE_ERRORS as error:
        if is_parquet(path):
            raise RowsError(faults.table_problem(path, error)) from None
        raise RowsError(f"{path} cannot be read: {error}.") from None


def _json_in(line: bytes) -> Any:
    try:
        return json.loads(line.decode(), parse_constant=lambda name: None)  # NaN is not JSON
    except json.JSONDecodeError as error:
        return ValueError(f"not valid JSON: {error.msg}")
    except UnicodeDecodeError:
        return ValueError("it is not UTF-8 text; name its encoding with --encoding")
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


def check(path: Path, rows: Iterator[tuple[int, Any]], read: Callable[[Any], Any]) -> int:
    """Look at every row and return how many there are. `read` raises ValueError with a clause.

    Raises RowsError with the number of every wrong row, ten at most.
    """
    count, wrong = 0, []
    for number, raw in rows:
        count += 1
        try:
            if isinstance(raw, ValueError):
                raise raw
            read(raw)
        except ValueError as error:
            wrong.append(f"{path}, row {int(number)}: {str(error).rstrip('.')}.")
            if len(wrong) == WRONG_ROWS_TOLD:
                break
    if wrong:
        raise RowsError("\n".join(wrong))
    if not count:
        raise RowsError(f"{path} has no rows.")
    return count


def survey(path: Path) -> Counter[str]:
    """How many `rows` and `responses` there are, and rows `with_one` and `with_many` responses.

    Reads the whole file. Raises RowsError with the number of every wrong row, ten at most.
    """
    counts: Counter[str] = Counter()

    def count(raw: Any) -> None:
        asked = asked_of(raw)
        counts["responses"] += len(asked.responses)
        counts["with_many" if asked.many else "with_one"] += 1

    counts["rows"] = check(path, raw_rows(path), count)
    return counts


def _asked_or_error(raw: Any) -> Asked:
    if isinstance(raw, ValueError):
        raise raw
    return asked_of(raw)

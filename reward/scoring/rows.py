"""Rows to score: lines of JSON or rows of Parquet, each in one of three forms.

    {messages}             a conversation that ends with the response
    {prompt, response}     the prompt as text or messages
    {prompt, responses}    several responses to one prompt

The command, the API and the recipe share this code. It needs neither Django nor torch.
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

from recipes.machine import faults

ROW_BATCH_SIZE = 256
MAX_PROBLEMS = 10
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Messages = list[dict[str, str]]


class RowsError(ValueError):
    """A file that cannot be scored. The text lists the wrong rows and the reasons."""


@dataclass(frozen=True)
class ScoreRow:
    """A prompt and the responses to score. `many` is true if the row has a list of responses."""

    prompt: Messages
    responses: list[str]
    many: bool
    unread: frozenset[int] = frozenset()
    """The indices of responses that get no score, because they are null or answer more than text."""


def parse_row(raw: Any) -> ScoreRow:
    """Return the row of a JSON object, which is read strictly.

    Raises ValueError with the problem as a clause.
    """
    if not isinstance(raw, dict):
        raise ValueError("it is not a JSON object")
    if raw.get("messages") is not None:
        return parse_messages(raw["messages"])
    if raw.get("prompt") is None:
        raise ValueError("it has neither messages nor prompt")
    prompt = messages_in(raw["prompt"], "prompt")
    if raw.get("responses") is not None:
        texts = raw["responses"]
        if not isinstance(texts, list) or not texts:
            raise ValueError("responses is not a list of texts")
        return ScoreRow(prompt, [text_in(text, "a response") for text in texts], many=True)
    if raw.get("response") is None:
        raise ValueError("it has a prompt but neither response nor responses")
    return ScoreRow(prompt, [text_in(raw["response"], "response")], many=False)


def parse_messages(value: Any) -> ScoreRow:
    """Return the row of a conversation that ends with the response. Raises ValueError."""
    *prompt, answer = messages_in(value, "messages")
    if answer["role"] != "assistant":
        raise ValueError(
            "messages do not end with an answer: the last role must be assistant, "
            f"not {answer['role']!r}"
        )
    if not prompt:
        raise ValueError("messages have an answer but no prompt")
    return ScoreRow(prompt, [answer["content"]], many=False)


def messages_in(value: Any, name: str) -> Messages:
    """Return the messages of a chat. A text becomes one message of the user.

    Raises ValueError with the problem as a clause.
    """
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
    """Return the text. Raises ValueError for other types and for text with lone surrogates."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} has a lone surrogate, which is not a character") from None
    return value


# --- rows of files --------------------------------------------------------------------------------

ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant",
    "model": "assistant", "chatgpt": "assistant", "function": "tool", "developer": "system",
}  # fmt: skip
TEXT_PARTS = ("text", "input_text", "output_text")
_UNREADABLE = re.compile("[\x00\ud800-\udfff]")


def parse_file_row(raw: Any) -> ScoreRow:
    """Return the row of an object from a file, which is read as leniently as imports.

    Numbers and booleans become text, the texts of content parts are joined, and lone surrogates and
    NUL are replaced by U+FFFD. A response that is null gets no score. A response to an image gets none
    either, because the model would read only a part of the prompt. Raises ValueError.
    """
    if not isinstance(raw, dict):
        raise ValueError("it is not a JSON object")
    chat = next(
        (raw[name] for name in ("messages", "conversations") if has_content(raw.get(name))), None
    )
    if chat is not None:
        turns, whole = chat_of(chat, "messages")
        row = parse_messages(turns)
        return replace(row, unread=frozenset() if whole else frozenset([0]))
    if not has_content(raw.get("prompt")):
        raise ValueError("it has neither messages nor prompt")
    prompt, whole = chat_of(raw["prompt"], "prompt")
    responses, many = raw.get("responses"), raw.get("responses") is not None
    if many and (not isinstance(responses, list) or not responses):
        raise ValueError("responses is not a list of texts")
    if not many and "response" not in raw:
        raise ValueError("it has a prompt but neither response nor responses")
    answers: list[Any] = list(responses or []) if many else [raw["response"]]
    texts = [None if is_missing(a) else answer_of(a, "a response") for a in answers]
    unread = {n for n, text in enumerate(texts) if text is None or not whole}
    return ScoreRow(prompt, [text or "" for text in texts], many, frozenset(unread))


def has_content(value: Any) -> bool:
    """Return whether there is a value. 0 and false are values. null, NaN and empty values are not."""
    return not is_missing(value) and value not in ("", [], {})


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def text_of(value: Any) -> str | None:
    """Return a text, number or boolean as a clean text, or None for other types."""
    if isinstance(value, str):
        return _UNREADABLE.sub("\ufffd", value)
    if isinstance(value, bool | int | float) and not is_missing(value):
        return json.dumps(value)
    return None


def answer_of(value: Any, name: str) -> str:
    """Return the text of an answer, which may be a text or a message of the assistant.

    Raises ValueError with the problem as a clause.
    """
    if (text := text_of(value)) is not None:
        return text
    turns, whole = chat_of(value, name) if isinstance(value, dict | list) else ([], False)
    if len(turns) != 1 or turns[0]["role"] != "assistant" or not whole:
        raise ValueError(f"{name} is not text")
    return turns[0]["content"]


def chat_of(value: Any, name: str) -> tuple[Messages, bool]:
    """Return a text or a chat as messages, and whether it contains only text.

    Raises ValueError with the problem as a clause.
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
    """Return the text of a message and whether all its parts are text."""
    if not isinstance(content, list):
        return text_of(content), True
    texts = [_text_of_part(part) for part in content]
    readable = [text for text in texts if text is not None]
    return "\n\n".join(readable) if content else None, len(readable) == len(texts)


def _text_of_part(part: Any) -> str | None:
    if isinstance(part, dict):
        part = part.get("text") if part.get("type", "text") in TEXT_PARTS else None
    return text_of(part)


# --- files ----------------------------------------------------------------------------------------


def is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def raw_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield each row with its number, from 1. For JSON, this is the number of the line.

    Invalid JSON is yielded as a ValueError in place of the row. Raises RowsError if the file cannot be
    read.
    """
    try:
        if is_parquet(path):
            with pq.ParquetFile(path) as file:
                batches = file.iter_batches(batch_size=ROW_BATCH_SIZE)
                yield from enumerate((row for b in batches for row in b.to_pylist()), 1)
            return
        with path.open("rb") as lines:  # as bytes, since U+2028 in a text does not end a line
            for number, line in enumerate(lines, 1):
                if line.removeprefix(BYTE_ORDER_MARK).strip():
                    yield number, _json_in(line.removeprefix(BYTE_ORDER_MARK))
    except faults.table_errors() as error:
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


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any], ScoreRow]]:
    """Yield the number, the object and the row of each row.

    Raises RowsError at the first wrong row. `survey` lists several.
    """
    for number, raw in raw_rows(path):
        try:
            yield number, raw, _parsed(raw)
        except ValueError as error:
            raise RowsError(f"{path}, row {number}: {error}.") from None


def check(path: Path, rows: Iterator[tuple[int, Any]], read: Callable[[Any], Any]) -> int:
    """Check every row, and return the number of rows.

    `read` must raise ValueError for a wrong row, with the reason as a clause. Raises RowsError with the
    numbers of the first ten wrong rows.
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
            if len(wrong) == MAX_PROBLEMS:
                break
    if wrong:
        raise RowsError("\n".join(wrong))
    if not count:
        raise RowsError(f"{path} has no rows.")
    return count


def survey(path: Path) -> Counter[str]:
    """Count the `rows` and `responses`, and the rows `with_one` and `with_many` responses.

    The whole file is read. Raises RowsError with the numbers of the first ten wrong rows.
    """
    counts: Counter[str] = Counter()

    def count(raw: Any) -> None:
        row = parse_file_row(raw)
        counts["responses"] += len(row.responses)
        counts["with_many" if row.many else "with_one"] += 1

    counts["rows"] = check(path, raw_rows(path), count)
    return counts


def _parsed(raw: Any) -> ScoreRow:
    if isinstance(raw, ValueError):
        raise raw
    return parse_file_row(raw)

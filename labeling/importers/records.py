"""What every format is read into. A format's module yields these; the writer stores them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


class BadInput(ValueError):  # noqa: N818 - it reads as what it is
    """A sentence that says what is wrong, with the line where it stands. Nothing was written."""

    def __init__(self, sentence: str, line: int | None = None):
        word = getattr(line, "word", "Line")
        super().__init__(f"{word} {line}: {sentence}" if line else sentence)


@dataclass(frozen=True)
class ResponseRecord:
    text: str
    model: str
    external_id: str = ""
    seed: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class RankingRecord:
    """`tiers`, `shown_order` and the keys of `ratings` and `flags` are places in the prompt's
    responses. `own_scales`: ratings of criteria that the guideline lacks are left out, not refused.
    """

    reviewer: str
    tiers: list[list[int]]
    cut: int | None = None
    strength: float | None = None
    ratings: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    flags: Mapping[int, Sequence[str]] = field(default_factory=dict)
    rationale: str = ""
    active_seconds: float = 0.0
    shown_order: Sequence[int] = ()
    created_at: datetime | None = None
    own_scales: bool = False


@dataclass(frozen=True)
class GoldRecord:
    """`a` and `b` of a constraint are places in the prompt's responses; see labeling.gold."""

    constraints: list[Any]
    purpose: str
    explanation: str


@dataclass(frozen=True)
class TaskRecord:
    """`responses` are places in the prompt's responses. None for `rankings_wanted`: as many as it
    brings, else as many as the project says.
    """

    line: int
    responses: list[int]
    rankings: list[RankingRecord]
    priority: int = 5
    rankings_wanted: int | None = None
    kind: str = "ranking"
    gold: GoldRecord | None = None


@dataclass(frozen=True)
class PromptRecord:
    line: int
    messages: list[dict[str, str]]
    responses: list[ResponseRecord]
    tasks: list[TaskRecord]
    external_id: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


EXAMPLE = 80
"""Characters of the example value of a column."""


@dataclass
class Column:
    """One column, or one key of nested objects as `column[].key`, over all rows that have it.

    `filled` counts the rows in which it holds something, `empty` those in which it does not.
    """

    meaning: str
    filled: int = 0
    empty: int = 0
    example: str = ""


@dataclass
class Columns:
    """The account of every column: what it meant, how often it was there, and an example."""

    columns: dict[str, Column] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], meaning: Mapping[str, str], prefix: str = "") -> None:
        for name, value in row.items():
            column = self.columns.get(prefix + name)
            if column is None:
                column = self.columns[prefix + name] = Column(meaning.get(name, "unused"))
            if value is None or value in ("", [], {}):
                column.empty += 1
                continue
            column.filled += 1
            if not column.example:
                column.example = str(value)[:EXAMPLE]


@dataclass
class Tally:
    """What a file held, told in its own words, so that it can be reconciled line by line."""

    columns: Columns = field(default_factory=Columns)

    read: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)


def check_messages(messages: Any, line: int) -> list[dict[str, str]]:
    """The chat, when it is one that can be answered. Raises BadInput."""
    if not isinstance(messages, list) or not messages:
        raise BadInput('"messages" must be a list of {"role", "content"}, not empty.', line)
    for message in messages:
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise BadInput('each message must be {"role": …, "content": …}.', line)
        if message["role"] not in ROLES:
            raise BadInput(f"a role is one of {', '.join(ROLES)}; got {message['role']!r}.", line)
        if not isinstance(message["content"], str):
            raise BadInput(f"the content of a {message['role']} message is not text.", line)
    if messages[-1]["role"] == "assistant":
        raise BadInput("the last message is the assistant's; there is nothing to answer.", line)
    return messages

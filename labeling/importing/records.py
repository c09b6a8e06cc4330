"""The records into which every format is read. Format modules yield them; the writer stores them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from labeling.core.chats import chat_problem


class BadInput(ValueError):  # noqa: N818 - reads better without Error
    """Raised for a problem in a file, before anything is written. The message names the line."""

    def __init__(self, sentence: str, line: int | None = None):
        self.line = line
        word = getattr(line, "word", "Line")
        super().__init__(f"{word} {line}: {sentence}" if line else sentence)


# No code changes a record, but the dataclasses are not frozen: creating a frozen one with five fields
# takes 2.3 µs instead of 0.6 µs, which made reading pairs 20 % slower.


@dataclass(unsafe_hash=True)
class ResponseRecord:
    text: str
    model: str
    external_id: str = ""
    seed: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass
class RankingRecord:
    """A ranking in a file.

    `tiers`, `shown_order` and the keys of `ratings` and `flags` contain indexes of the prompt's
    responses. With `own_scales`, ratings for criteria that the guideline does not have are left out
    instead of refused.
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
    """A known answer in a file; see labeling.gold.constraints.

    `a` and `b` in a constraint are indexes of the prompt's responses.
    """

    constraints: list[Any]
    purpose: str
    explanation: str


@dataclass
class TaskRecord:
    """A task in a file. `responses` contains indexes of the prompt's responses.

    If `rankings_wanted` is None, the task needs as many rankings as it has in the file or, if it has
    none, as many as the project's setting says.
    """

    line: int
    responses: list[int]
    rankings: list[RankingRecord]
    priority: int = 5
    rankings_wanted: int | None = None
    kind: str = "ranking"
    gold: GoldRecord | None = None
    external_id: str = ""


@dataclass
class PromptRecord:
    line: int
    messages: list[dict[str, str]]
    responses: list[ResponseRecord]
    tasks: list[TaskRecord]
    external_id: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


OTHER_ID = "ids of prompts and tasks that are stored under another id, or without one"
EXAMPLE = 80
"""Maximum length of a column's example value, in characters."""

NESTED = "nested"
"""The meaning of an object whose keys have meanings of their own."""

Meaning = Mapping[str, Any]
"""The meaning of each key of an object: a word, or another Meaning for a nested object.

In a nested Meaning, the key "" gives the meaning of a value that is not an object, and "*" gives the
meaning of all other keys.
"""


@dataclass
class Column:
    """A column of the file, or a key of nested objects, written `column.key` or `column[].key`.

    `filled` is the number of values that are not empty, and `empty` the number of others. Each value is
    counted only in the innermost column that contains it, so the columns account for the whole file.
    """

    meaning: str
    filled: int = 0
    empty: int = 0
    example: str = ""
    nested: bool = False


@dataclass
class Columns:
    """All columns of a file with their meanings, counts and examples."""

    columns: dict[str, Column] = field(default_factory=dict)

    def add(
        self, row: Mapping[str, Any], meaning: Meaning, prefix: str = "", default: str = "unused"
    ) -> None:
        """Count the keys of a row, or of a nested object at the path `prefix`."""
        others = meaning.get("*", default)
        columns = self.columns
        for name, value in row.items():
            path = prefix + name if prefix else name
            if (
                value
                and isinstance(value, str)
                and path in columns
                and (column := columns[path]).example
            ):
                column.filled += 1  # the usual case, without the cost of a call
                continue
            entry = meaning.get(name, others)
            if isinstance(entry, str):
                self.count(path, entry, value, nested=bool(prefix))
            else:
                self._inside(path, entry, value, nested=bool(prefix))

    def _inside(self, path: str, meaning: Meaning, value: Any, *, nested: bool) -> None:
        """Count a value, or the keys of the objects that it contains."""
        items = value if isinstance(value, list) else []
        opened = isinstance(value, dict) or dict in map(type, items)
        whole = meaning.get("", NESTED if opened or not value else "unused")
        self.count(path, whole, value, nested=nested)
        if isinstance(value, dict):
            self.add(value, meaning, f"{path}.")
        for item in items if opened else ():
            if isinstance(item, dict):
                self.add(item, meaning, f"{path}[].")
            else:
                self.count(f"{path}[]", meaning.get("", "unused"), item, nested=True)

    def count(self, path: str, meaning: str, value: Any, *, nested: bool = False) -> None:
        column = self.columns.get(path)
        if column is None:
            column = self.columns[path] = Column(meaning, nested=nested)
        if value is None or value in ("", [], {}):
            column.empty += 1
            return
        column.filled += 1
        if not column.example:
            column.example = str(value)[:EXAMPLE]


MAX_PROBLEMS = 10


class SeveralProblems(BadInput):
    """Several problems in a file. The message has one line for each."""

    def __init__(self, problems: list[BadInput]):
        self.problems = sorted(problems, key=lambda problem: problem.line or 0)
        sentences = list(dict.fromkeys(map(str, self.problems)))
        if self.complete:
            sentences.append("There may be more.")
        super().__init__("\n".join(sentences))

    @property
    def complete(self) -> bool:
        """Return whether reading stopped because there were MAX_PROBLEMS problems."""
        return len(self.problems) >= MAX_PROBLEMS


@dataclass
class Problems:
    """Collects the problems in a file, so that a lead sees the first ten together."""

    items: list[BadInput] = field(default_factory=list)

    def add(self, problem: BadInput) -> None:
        """Add a problem. At the tenth, raise BadInput with all of them, which ends the reading."""
        self.items.append(problem)
        if len(self.items) >= MAX_PROBLEMS:
            self.raise_any()

    def raise_any(self) -> None:
        """Raise BadInput with all problems so far, ordered by line, if there are any."""
        if not self.items:
            return
        problems, self.items = self.items, []
        raise SeveralProblems(problems) from None


@dataclass
class Tally:
    """Counts of everything in a file, in the file's own terms, so that users can compare them with it.

    `read` counts what was read, `left_out` what was not used, and `changed` what was stored differently.
    """

    columns: Columns = field(default_factory=Columns)

    read: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    problems: Problems = field(default_factory=Problems)


def check_messages(messages: Any, line: int) -> list[dict[str, str]]:
    """Return the chat. Raises BadInput if a model could not answer it."""
    if problem := chat_problem(messages):
        raise BadInput(problem, line)
    return messages

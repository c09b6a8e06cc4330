"""The responses and judgments in a row, and the matching of names in a row to its responses."""

import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from labeling.importing.formats.conversations import Messages

TIES = {"tie", "ties", "tied", "both", "equal", "draw", "same", "neither", "0.5"}
BOTH_BAD = {"tie (bothbad)", "bothbad", "both_bad", "both bad", "neither is good"}
SIDES = {"left": 0, "first": 0, "right": 1, "second": 1}


@dataclass
class Answer:
    """A response in a row, with the values of the columns that describe it."""

    text: str
    column: str
    model: str = ""
    external_id: str = ""
    label: bool | None = None
    rank: float | None = None
    score: float | None = None
    ratings: dict[str, int] = field(default_factory=dict)

    def is_marked(self) -> bool:
        """Return whether the response has a label, a rank or a score."""
        return self.label is not None or self.rank is not None or self.score is not None


@dataclass
class Verdict:
    """A preference between the answers in one row. Tiers contain indexes of answers, best first."""

    tiers: list[list[int]]
    cut: int | None = None
    strength: float | None = None


Content = tuple[Messages, list[Answer], Verdict | None]
"""The prompt of a row, its responses, and the preference between them, if the row has one."""


@dataclass
class Row:
    """A row as it was read: its prompt, its responses, and everything that describes them."""

    line: int
    messages: Messages
    answers: list[Answer]
    verdict: Verdict | None = None
    external_id: str = ""
    task_id: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    reviewer: str = ""
    rationale: str = ""


@lru_cache(maxsize=1000)
def mark_of(name: str) -> str:
    """Return the number or letter in a column's name, such as "2" or "b", or ""."""
    match = re.search(r"(?:^|[_ -])([0-9]+|[a-i])(?:$|[_ -])", name, re.IGNORECASE) or re.search(
        r"([0-9]+)$", name
    )
    return match[1].lower() if match else ""


@lru_cache(maxsize=1000)
def belongs(name: str, column: str) -> bool:
    """Return whether the column `name`, such as rank_2, describes the response in `column`."""
    whole = rf"(?<![^\W_]){re.escape(column)}(?![^\W_])"
    if re.search(whole, name, re.IGNORECASE):
        return True
    return bool(mark_of(name)) and mark_of(name) == mark_of(column)


def _bare(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().lower()


def response_named(name: str, answers: list[Answer]) -> int | None:
    """Return the index of the response that `name` names by column, number, letter or model."""
    name = _bare(re.sub(r"\.0$", "", name))
    columns = [_bare(answer.column) for answer in answers]
    marks = [mark_of(answer.column) for answer in answers]
    models = [_bare(answer.model) for answer in answers]
    if name in SIDES and len(answers) == 2:
        return SIDES[name]
    for names in (columns, models, marks):
        if names.count(name) == 1:
            return names.index(name)
    mark = mark_of(name)
    return marks.index(mark) if mark and marks.count(mark) == 1 else None

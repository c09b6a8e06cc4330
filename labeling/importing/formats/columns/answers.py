"""A response of a row, what is said of it, and which response a name in the row means."""

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
    """A response with what its own columns say of it."""

    text: str
    column: str
    model: str = ""
    external_id: str = ""
    label: bool | None = None
    rank: float | None = None
    score: float | None = None
    ratings: dict[str, int] = field(default_factory=dict)


@dataclass
class Verdict:
    """A preference between the answers of one row: their places in tiers, best first."""

    tiers: list[list[int]]
    cut: int | None = None
    strength: float | None = None


@dataclass
class Row:
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
    """Return the number or letter with which a column says whose it is, or ""."""
    found = re.search(r"(?:^|[_ -])([0-9]+|[a-i])(?:$|[_ -])", name, re.IGNORECASE) or re.search(
        r"([0-9]+)$", name
    )
    return found[1].lower() if found else ""


def belongs(name: str, column: str, place: int) -> bool:
    """Whether a column such as rank_2 or chosen_model says something of the response in another."""
    whole = rf"(?<![^\W_]){re.escape(column)}(?![^\W_])"
    if re.search(whole, name, re.IGNORECASE):
        return True
    return bool(mark_of(name)) and mark_of(name) == mark_of(column)


def _bare(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().lower()


def named(said: str, answers: list[Answer]) -> int | None:
    """Return the place of the response that a text names: its column, number, letter or model."""
    said = _bare(re.sub(r"\.0$", "", said))
    columns = [_bare(answer.column) for answer in answers]
    marks = [mark_of(answer.column) for answer in answers]
    models = [_bare(answer.model) for answer in answers]
    if said in SIDES and len(answers) == 2:
        return SIDES[said]
    for names in (columns, models, marks):
        if names.count(said) == 1:
            return names.index(said)
    mark = mark_of(said)
    return marks.index(mark) if mark and marks.count(mark) == 1 else None

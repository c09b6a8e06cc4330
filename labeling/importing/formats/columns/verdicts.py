"""Read a row's preference: a winner, a tie, or a score that compares two responses."""

import re
from typing import Any

from labeling.importing.formats.columns import values
from labeling.importing.formats.columns.answers import (
    BOTH_BAD,
    TIES,
    Answer,
    Verdict,
    response_named,
)
from labeling.importing.formats.columns.source_row import SourceRow
from labeling.importing.formats.conversations import number, tiers_and_strength
from labeling.importing.records import BadInput

UNREADABLE = "rows whose preference is empty"


def read_verdict(row: SourceRow, answers: list[Answer]) -> Verdict | None:
    """Return the preference between the responses, or None if the row has none."""
    for name in row.columns["preference"]:
        value = row.source.get(name)
        if value in (None, "") or len(answers) != 2:
            continue
        if (score := number(value)) is None:
            raise BadInput(f'"{name}" must be a number; got {value!r}.', row.line)
        tiers, strength = tiers_and_strength(0, 1, score)
        return Verdict(tiers, strength=strength)
    if len(row.columns["winner"]) > 1:
        return _one_hot(row, answers)
    for name in row.columns["winner"]:
        if row.source.get(name) in (None, ""):
            row.tally.left_out[UNREADABLE] += 1
            continue
        return _verdict_for(row, name, values.structure(row.source, name), answers)
    return None


def _one_hot(row: SourceRow, answers: list[Answer]) -> Verdict | None:
    """Return the preference in columns such as winner_model_a and winner_tie, of which one is true."""
    chosen = [name for name in row.columns["winner"] if (number(row.source.get(name)) or 0) > 0]
    if len(chosen) != 1:
        row.tally.left_out[UNREADABLE] += 1
        return None
    return _verdict_for(row, chosen[0], re.sub(r"^winner_", "", chosen[0].lower()), answers)


def _verdict_for(row: SourceRow, name: str, value: Any, answers: list[Answer]) -> Verdict:
    winner = str(value).strip().lower()
    indexes = list(range(len(answers)))
    if winner in BOTH_BAD:
        return Verdict([indexes], cut=0)
    if winner in TIES:
        return Verdict([indexes])
    best = response_named(winner, answers)
    if best is None:
        columns = ", ".join(answer.column for answer in answers)
        raise BadInput(
            f'"{name}" is {value!r}, which is neither one of the responses ({columns}) nor a tie.',
            row.line,
        )
    return Verdict([[best], [n for n in indexes if n != best]])

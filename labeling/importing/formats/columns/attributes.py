"""Read the responses' models, ids and marks, which are in columns of their own."""

import re
from functools import lru_cache
from typing import Any

from labeling.importing.formats.columns import values
from labeling.importing.formats.columns.answers import Answer, belongs, mark_of
from labeling.importing.formats.columns.source_row import SourceRow
from labeling.importing.formats.conversations import name_of, number
from labeling.importing.records import BadInput

NO_OWNER = "ids that match no response of their row"


def set_models(row: SourceRow, answers: list[Answer]) -> None:
    """Set the model of each response that does not have one yet."""
    if not (names := row.columns["model"]):
        return
    flat: list[str] = []
    single: list[tuple[str, str]] = []
    for name in names:
        value = values.structure(row.source, name)
        if isinstance(value, list):
            flat += ["" if model is None else str(model) for model in value]
        elif value:
            single.append((name, str(value)))
    for index, answer in enumerate(answers):
        if answer.model:
            continue
        own = [model for name, model in single if belongs(name, answer.column)]
        if index < len(flat):
            answer.model = flat[index]
        elif own:
            answer.model = own[0]
        elif len(single) == 1 and not _of_one_side(single[0][0]):
            answer.model = single[0][1]


def set_ids(row: SourceRow, answers: list[Answer]) -> None:
    """Set the id of each response from a column of its own, or from a list in the same order."""
    for name in row.columns["response_id"]:
        value = values.structure(row.source, name)
        owners = [a for a in answers if belongs(name, a.column)]
        if isinstance(value, list):
            _set_each(row, owners or answers, "external_id", name, value)
            continue
        owners = owners or (answers if len(answers) == 1 else [])
        row.tally.left_out[NO_OWNER] += bool(name_of(value)) and not owners
        for answer in owners:
            answer.external_id = answer.external_id or name_of(value)


def set_marks(row: SourceRow, answers: list[Answer]) -> None:
    """Set the responses' labels, ranks and scores, and the ratings if there is only one response."""
    for meaning in ("label", "rank", "score"):
        names = row.columns[meaning]
        for name in names:
            value = values.structure(row.source, name)
            if isinstance(value, list):
                _set_each(row, answers, meaning, name, value)
            elif value not in (None, ""):
                owners = (
                    answers
                    if len(answers) == 1
                    else [a for a in answers if belongs(name, a.column)]
                )
                for answer in owners:
                    setattr(answer, meaning, _value(row, meaning, name, value))
    for answer in answers if len(answers) == 1 else []:
        for name in row.columns["rating"]:
            if (rating := number(row.source.get(name))) is not None:
                answer.ratings[name] = int(rating)


def _set_each(
    row: SourceRow, answers: list[Answer], meaning: str, name: str, cells: list[Any]
) -> None:
    if len(cells) != len(answers):
        raise BadInput(f'"{name}" has {len(cells)} values for {len(answers)} responses.', row.line)
    for answer, value in zip(answers, cells, strict=True):
        if value is not None:
            setattr(answer, meaning, _value(row, meaning, name, value))


def _value(row: SourceRow, meaning: str, name: str, value: Any) -> Any:
    if meaning == "external_id":
        return name_of(value)
    if meaning == "label":
        text = str(value).strip().lower()
        if text in ("true", "1", "1.0", "yes"):
            return True
        if text in ("false", "0", "0.0", "no", "-1"):
            return False
        raise BadInput(f'"{name}" must be true or false; got {value!r}.', row.line)
    if (parsed := number(value)) is None:
        raise BadInput(f'"{name}" must be a number; got {value!r}.', row.line)
    return parsed


@lru_cache(maxsize=1000)
def _of_one_side(name: str) -> bool:
    """Return whether a column's name has a number or a side, and so describes only one response."""
    return bool(mark_of(name)) or bool(re.search("chosen|rejected", name, re.IGNORECASE))

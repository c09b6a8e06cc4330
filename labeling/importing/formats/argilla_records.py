"""Readers for all shapes of Argilla's exported records; see labeling.importing.formats.argilla."""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from labeling.importing.formats.columns import values
from labeling.importing.formats.conversations import text_of
from labeling.importing.records import NESTED, BadInput, Meaning, Tally

DISCARDED = "discarded answers and drafts"
SUGGESTIONS = "models' suggestions (not a person's judgment)"
SUGGESTION = re.compile(r"(.+)[.-]suggestion(?:[.-](?:metadata|score|agent|type))?")
COLUMN = re.compile(r"(.+)\.responses(?:\.(users|status))?")
ABOUT = frozenset(
    {
        "id", "external_id", "status", "_server_id", "inserted_at", "updated_at", "created_at",
        "vectors", "metadata", "suggestions", "responses", "event_timestamp", "metrics",
        "search_keywords", "multi_label", "explanation", "prediction", "prediction_agent",
        "annotation", "annotation_agent",
    }
)  # fmt: skip
"""Columns of a data set that are not fields of its records."""

VALUE = {"value": "ranking", "user_id": "reviewer", "status": "status"}
ANSWERS: Meaning = {"": "ranking", "*": {"": "ranking", **VALUE}}
"""The meaning of "responses" if it is an object with a key for each question."""
BY_USER: Meaning = {
    "": "ranking", "user_id": "reviewer", "status": "status",
    "values": {"*": {"": "ranking", "value": "ranking"}},
}  # fmt: skip
"""The meaning of "responses" if it is a list with one element per user."""

Answers = dict[str, dict[str, Any]]
"""Users' answers, keyed by user and then by question."""


@dataclass
class Record:
    """A record of any shape: its fields by name, and each user's answers."""

    fields: dict[str, Any]
    answers: Answers
    metadata: dict[str, Any]
    external_id: str
    prefix: str = ""
    """The prefix of the field names in the file."""


def shape_of(row: dict[str, Any]) -> str:
    """Return the name of a record's shape, or "" if it is not from Argilla."""
    if isinstance(values.structure(row, "fields"), dict) and "responses" in row:
        return "record"
    if any(name.endswith(".responses.users") for name in row):
        return "columns"
    if (
        isinstance(values.structure(row, "inputs"), dict)
        and {"annotation", "prediction"} & row.keys()
    ):
        return "classification"
    if any(name.endswith("-suggestion-metadata") for name in row) or _questions(row):
        return "questions"
    return ""


def _questions(row: dict[str, Any]) -> list[str]:
    """Return the columns that contain users' answers, as in data sets from Argilla 1."""
    return [
        name
        for name in row
        if f"{name}-suggestion" in row or _are_answers(values.structure(row, name))
    ]


def _are_answers(value: Any) -> bool:
    if isinstance(value, dict):  # some data sets store a list of objects as an object of lists
        return {"user_id", "value", "status"} <= value.keys()
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and {"user_id", "value"} <= item.keys() for item in value)
    )


def record_of(row: dict[str, Any], line: int, tally: Tally) -> Record:
    """Return a row of the file as a record. Raises BadInput."""
    readers = {
        "record": _record, "columns": _of_columns, "questions": _of_questions,
        "classification": _of_classification,
    }  # fmt: skip
    shape = shape_of(row)
    if not shape:
        raise BadInput('a record must have "fields" and "responses".', line)
    tally.read["records"] += 1
    return readers[shape](row, line, tally)


def _record(row: dict[str, Any], line: int, tally: Tally) -> Record:
    responses = values.structure(row, "responses") or {}
    suggestions = values.structure(row, "suggestions")
    rest = {key: item for key, item in row.items() if key not in ("responses", "metadata")}
    tally.columns.add(rest, {"id": "id", "external_id": "id", "fields": NESTED})
    tally.columns.add({"responses": responses}, {"responses": _meaning_of(responses)})
    tally.left_out[SUGGESTIONS] += len(suggestions) if isinstance(suggestions, dict | list) else 0
    fields = _object(values.structure(row, "fields"), line)
    return Record(
        fields, _answers(responses, line, tally), _metadata(row, tally), _id(row), "fields."
    )


def _meaning_of(responses: Any) -> Meaning:
    return BY_USER if isinstance(responses, list) else ANSWERS


def _answers(responses: Any, line: int, tally: Tally) -> Answers:
    by_user: Answers = defaultdict(dict)
    if isinstance(responses, list):
        for item in responses:
            annotation = _object(item, line)
            if _counts(annotation.get("status"), tally):
                for question, answer in _object(annotation.get("values") or {}, line).items():
                    by_user[_user(annotation.get("user_id"))][question] = _object(answer, line).get(
                        "value"
                    )
        return by_user
    for question, answers in _object(responses, line).items():
        _collect(by_user, question, _list(answers, line), line, tally)
    return by_user


def _collect(by_user: Answers, question: str, answers: list[Any], line: int, tally: Tally) -> None:
    for item in answers:
        annotation = _object(item, line)
        if _counts(annotation.get("status"), tally):
            by_user[_user(annotation.get("user_id"))][question] = annotation.get("value")


def _of_columns(row: dict[str, Any], line: int, tally: Tally) -> Record:
    """Read a row from Argilla 2, with "q.responses", "q.responses.users" and "q.responses.status"."""
    by_user: Answers = defaultdict(dict)
    for name in row:
        match = COLUMN.fullmatch(name)
        if match and not match[2]:
            answers = _list(values.structure(row, name), line)
            users = _list(values.structure(row, f"{name}.users"), line)
            states = _list(values.structure(row, f"{name}.status"), line) or [None] * len(users)
            if not len(users) == len(states) == len(answers):
                raise BadInput(
                    f'"{name}" has {len(answers)} answers for {len(users)} users and '
                    f"{len(states)} states.",
                    line,
                )
            for user, state, answer in zip(users, states, answers, strict=True):
                if _counts(state, tally):
                    by_user[_user(user)][match[1]] = answer
    kinds = {"users": "reviewer", "status": "status", None: "ranking"}
    meaning = {name: kinds[m[2]] for name in row if (m := COLUMN.fullmatch(name))}
    return _flat(row, {name for name in row if name in meaning}, meaning, by_user, tally)


def _of_questions(row: dict[str, Any], line: int, tally: Tally) -> Record:
    """Read a row from Argilla 1, with a column of users' answers for each question."""
    by_user: Answers = defaultdict(dict)
    questions = _questions(row)
    for name in questions:
        answers = values.structure(row, name) or []
        if isinstance(answers, dict):
            keys = list(answers)
            lists = [_list(answers[key], line) for key in keys]
            answers = [dict(zip(keys, item, strict=False)) for item in zip(*lists, strict=False)]
        _collect(by_user, name, _list(answers, line), line, tally)
    meaning = {name: {"": "ranking", **VALUE} for name in questions}
    return _flat(row, set(questions), meaning, by_user, tally)


def _flat(
    row: dict[str, Any], judged: set[str], meaning: Meaning, answers: Answers, tally: Tally
) -> Record:
    """Return the record for a row whose columns are fields as well as answers."""
    suggested = {name for name in row if SUGGESTION.fullmatch(name) and name not in judged}
    tally.left_out[SUGGESTIONS] += sum(
        row[name] not in (None, "", [])
        for name in suggested
        if name.endswith(("-suggestion", ".suggestion"))
    )
    about = (judged | suggested | (ABOUT & row.keys())) - {"metadata"}
    named: Meaning = {**meaning, "id": "id", "external_id": "id"}
    tally.columns.add({name: values.structure(row, name) for name in row if name in about}, named)
    fields = type(row)({k: v for k, v in row.items() if k not in about and k != "metadata"})
    return Record(fields, answers, _metadata(row, tally), _id(row))


def _of_classification(row: dict[str, Any], line: int, tally: Tally) -> Record:
    """Read a record from Argilla's old text classification, whose label names a response."""
    answers: Answers = {}
    if row.get("annotation") not in (None, "", []):
        if row.get("status") in (None, "Validated", "Default"):
            answers = {_user(row.get("annotation_agent")): {"annotation": row["annotation"]}}
        else:
            tally.left_out[DISCARDED] += 1
    meaning = {
        "id": "id", "inputs": NESTED, "annotation": "ranking", "annotation_agent": "reviewer",
        "status": "status",
    }  # fmt: skip
    tally.left_out[SUGGESTIONS] += row.get("prediction") not in (None, "", [])
    rest = {key: item for key, item in row.items() if key != "metadata"}
    tally.columns.add(rest, meaning)
    fields = _object(values.structure(row, "inputs"), line)
    return Record(fields, answers, _metadata(row, tally), _id(row), "inputs.")


def _metadata(row: dict[str, Any], tally: Tally) -> dict[str, Any]:
    """Return a record's metadata. In data sets it is a text that contains JSON."""
    if "metadata" not in row:
        return {}
    value = values.structure(row, "metadata")
    tally.columns.add({"metadata": value}, {"metadata": "metadata"})
    if isinstance(value, dict):
        return {**value}
    return {} if value in (None, "", []) else {"metadata": value}


def _user(name: Any) -> str:
    return "argilla" if name in (None, "") else f"argilla-{name}"


def _id(row: dict[str, Any]) -> str:
    return text_of(row, ("external_id", "id"))


def _object(value: Any, line: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"an answer must be an object; got {str(value)[:60]!r}.", line)
    return value


def _list(value: Any, line: int) -> list[Any]:
    items = value or []
    if not isinstance(items, list):
        raise BadInput(f"answers must be a list; got {str(value)[:60]!r}.", line)
    return items


def _counts(status: Any, tally: Tally) -> bool:
    if status in (None, "submitted"):
        return True
    tally.left_out[DISCARDED] += 1
    return False

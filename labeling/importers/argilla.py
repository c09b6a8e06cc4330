"""Records exported from Argilla, as JSON of records or as the columns of a data set.

    {"id", "fields": {"prompt": …, "reply-1": …, "reply-2": …},
     "responses": {"ranking": [{"value": [{"value": "reply-2", "rank": 1}, …], "user_id": …}]}}

Every user's answer to a RankingQuestion is a ranking; equal ranks are a tie. Where there is none, a
user's RatingQuestions, one for each response, become a ranking, equal ratings a tie. With two
responses, a LabelQuestion whose answer names one of them is read too. Reviewers are "argilla-" and
the user's id. Discarded answers and drafts are left out. An older export's
{"user_id", "values": {"ranking": {"value": …}}} is read as well.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from labeling.importers.conversations import (
    Draft,
    as_messages,
    as_reply,
    from_json,
    in_tiers,
    number,
    text_of,
)
from labeling.importers.records import BadInput, PromptRecord, Tally
from labeling.importers.source import rows

PROMPT = ("prompt", "instruction", "question", "query", "input", "context", "chat", "messages")
ANSWER = re.compile(r"response|reply|generation|completion|answer|output|candidate", re.IGNORECASE)
COLUMN = re.compile(r"(.+)\.responses(\.users|\.status)?")
UNREAD = "users' answers that rank or rate no responses"

Answers = dict[str, dict[str, Any]]
"""user → question → answer"""


def recognises(first: Any) -> bool:
    if not isinstance(first, dict):
        return False
    nested = isinstance(first.get("fields"), dict) and "responses" in first
    return nested or any(name.endswith(".responses.users") for name in first)


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    for line, record in rows(path):
        if not recognises(record):
            raise BadInput('a record must have "fields" and "responses".', line)
        tally.read["records"] += 1
        nested = isinstance(record.get("fields"), dict)
        fields = record["fields"] if nested else _columns(record)
        answers = (_answers if nested else _answers_of_columns)(record, line, tally)
        yield from _draft(record, fields, answers, line, tally).records(tally)


def _columns(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if "." not in name}


def _answers(record: dict[str, Any], line: int, tally: Tally) -> Answers:
    said = from_json(record["responses"]) or {}
    found: Answers = defaultdict(dict)
    if isinstance(said, list):
        for one in said:
            if _counts(_object(one, line).get("status"), tally):
                for question, answer in _object(one.get("values") or {}, line).items():
                    value = _object(answer, line).get("value")
                    found[str(one.get("user_id"))][question] = value
        return found
    for question, answers in _object(said, line).items():
        for one in _list(answers, line):
            if _counts(_object(one, line).get("status"), tally):
                found[str(one.get("user_id"))][question] = one.get("value")
    return found


def _answers_of_columns(record: dict[str, Any], line: int, tally: Tally) -> Answers:
    found: Answers = defaultdict(dict)
    for name in filter(COLUMN.fullmatch, record):
        if name.endswith(".responses"):
            users = _list(record.get(f"{name}.users"), line)
            states = _list(record.get(f"{name}.status"), line) or [None] * len(users)
            answers = _list(record[name], line)
            for user, state, answer in zip(users, states, answers, strict=False):
                if _counts(state, tally):
                    found[str(user)][name.removesuffix(".responses")] = answer
    return found


def _object(value: Any, line: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"an answer must be an object; got {str(value)[:60]!r}.", line)
    return value


def _list(value: Any, line: int) -> list[Any]:
    found = from_json(value) or []
    if not isinstance(found, list):
        raise BadInput(f"answers must be a list; got {str(value)[:60]!r}.", line)
    return found


def _counts(status: Any, tally: Tally) -> bool:
    if status in (None, "submitted"):
        return True
    tally.left_out["discarded answers and drafts"] += 1
    return False


def _draft(
    record: dict[str, Any], fields: dict[str, Any], answers: Answers, line: int, tally: Tally
) -> Draft:
    name = next((name for name in PROMPT if fields.get(name)), None)
    if name is None:
        raise BadInput(f"no field is the prompt; one of {', '.join(PROMPT)} is.", line)
    texts = {
        key: value for key, value in fields.items() if key != name and isinstance(value, str | list)
    }
    named = {key: value for key, value in texts.items() if ANSWER.search(key)} or texts
    if "id" in named and len(named) > 1:
        named.pop("id")
    draft = Draft(line, as_messages(fields[name], line, name), external_id=text_of(record, ("id",)))
    models = record.get("metadata") if isinstance(record.get("metadata"), dict) else {}
    places = {
        key: draft.place(as_reply(value, line, key), str((models or {}).get(f"{key}_model") or ""))
        for key, value in named.items()
    }
    for user, said in answers.items():
        tally.read["users' answers"] += 1
        if tiers := _tiers(said, places, line):
            draft.judge(f"argilla-{user}", tiers, tally)
        else:
            tally.left_out[UNREAD] += 1
    return draft


def _tiers(said: dict[str, Any], places: dict[str, int], line: int) -> list[list[int]] | None:
    values = {question: from_json(value) for question, value in said.items()}
    for value in values.values():
        if isinstance(value, list) and len(value) > 1:
            return _ranked(value, places, line)
    scores = {
        place: score
        for question, value in values.items()
        if (score := number(value)) is not None and (place := _place(question, places)) is not None
    }
    if len(scores) > 1:
        return in_tiers(scores)
    if len(set(places.values())) == 2:
        for value in values.values():
            if isinstance(value, str) and (best := _place(value, places)) is not None:
                return [[best], [place for place in places.values() if place != best]]
    return None


def _ranked(value: list[Any], places: dict[str, int], line: int) -> list[list[int]] | None:
    """[{"value", "rank"}, …], or just the names in order."""
    if all(isinstance(one, str) for one in value):
        value = [{"value": name, "rank": place} for place, name in enumerate(value)]
    ranked = []
    for one in value:
        if not isinstance(one, dict) or "value" not in one or "rank" not in one:
            return None
        if (place := _place(str(one["value"]), places)) is None:
            raise BadInput(f"the ranking names {one['value']!r}, which is not a field.", line)
        if (rank := number(one["rank"])) is not None:
            ranked.append((rank, place))
    ranked.sort(key=lambda pair: pair[0])
    return [[place for _, place in tied] for _, tied in groupby(ranked, key=lambda pair: pair[0])]


def _place(name: str, places: dict[str, int]) -> int | None:
    """By the field's name, in whatever spelling; a question may carry words beside it."""
    if name in places:
        return places[name]
    wanted = _bare(name)
    exact = [place for key, place in places.items() if _bare(key) == wanted]
    within = [place for key, place in places.items() if _bare(key) in wanted]
    digits = re.findall(r"\d+", name)
    counted = [
        place
        for key, place in places.items()
        if digits and re.findall(r"\d+", key)[-1:] == digits[-1:]
    ]
    return next((found[0] for found in (exact, within, counted) if len(found) == 1), None)


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

"""Tiebreak's own format: each line is a JSON object with one prompt.

    {"messages": [{"role": "user", "content": "…"}],
     "responses": [{"text": "…", "model": "…"}, …],
     "rankings": [{"reviewer": "ada", "tiers": [[1], [0, 2]], "cut": 1, "rationale": "…"}]}

Tiers are lists of indexes in "responses", counted from 0, best first. If every response has an "id", they
are lists of response ids. A line may contain only a prompt, or a prompt and responses without rankings,
which become a task for reviewers. A line may also have "id", "meta" and "priority"; a ranking may have
"strength", "ratings", "flags" and "active_seconds". Unknown keys are refused, to catch typing errors.

"gold" is the known answer, as described in labeling.gold.constraints, with responses named as in tiers:
{"constraints": [{"kind": "above", "a": 0, "b": 2}], "purpose": "check", "explanation": "…"}.

`manage.py export --format full` writes the same format with several "tasks" per prompt. Each task has the
indexes of its "responses", its "rankings", "priority", "rankings_wanted" and "kind".
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_aware

from labeling.core.letter_references import LETTERS
from labeling.importing.files.source import each_row
from labeling.importing.formats.columns import values
from labeling.importing.formats.conversations import can_be_answered, finite, name_of, number
from labeling.importing.records import (
    BadInput,
    GoldRecord,
    PromptRecord,
    RankingRecord,
    ResponseRecord,
    Tally,
    TaskRecord,
)
from labeling.models import Task

LINE = {"messages", "responses", "rankings", "tasks", "id", "meta", "priority", "gold"}
RESPONSE = {"text", "model", "id", "external_id", "seed", "sampling"}
TASK = {"id", "responses", "rankings", "priority", "rankings_wanted", "kind", "gold"}
GOLD = {"purpose", "constraints", "explanation"}
RANKING = {
    "reviewer", "tiers", "cut", "strength", "ratings", "flags", "rationale", "active_seconds",
    "shown_order", "created_at", "source", "guideline_version", "rationale_letters",
    "rationale_resolved",
}  # fmt: skip
UNUSED = {"source", "guideline_version", "rationale_resolved"}
OF_RANKING = {"": "ranking"} | dict.fromkeys(RANKING, "ranking") | dict.fromkeys(UNUSED, "unused")
OF_RANKING |= {"reviewer": "reviewer", "rationale": "rationale", "ratings": "rating"}
OF_GOLD = {"": "gold"} | dict.fromkeys(GOLD, "gold")
OF_TASK = {
    "": "task", "id": "id", "responses": "task", "rankings": OF_RANKING, "priority": "task",
    "rankings_wanted": "task", "kind": "task", "gold": OF_GOLD,
}  # fmt: skip
MEANING = {
    "messages": "prompt", "responses": {"": "response"} | dict.fromkeys(RESPONSE, "response"),
    "rankings": OF_RANKING, "tasks": OF_TASK, "gold": OF_GOLD, "id": "id", "meta": "metadata",
    "priority": "task",
}  # fmt: skip
REPLIES = {"assistant", "gpt"}
KINDS = tuple(Task.Kind.values)


def recognises(first: Any) -> bool:
    if not isinstance(first, dict):
        return False
    if not isinstance(messages := values.structure(first, "messages"), list):
        return False
    last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
    if str(last.get("role", last.get("from"))) in REPLIES:
        return False
    return first.keys() <= LINE or ({"rankings", "tasks", "gold"} & first.keys() != set())


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    yield from each_row(path, tally, lambda line, value: [prompt_of(value, line, tally)])


def _check_names(value: Any, names: set[str], subject: str, line: int) -> None:
    if not isinstance(value, dict):
        raise BadInput(f"{subject} must be a JSON object.", line)
    if not value.keys() <= names:
        unknown = sorted(value.keys() - names)
        raise BadInput(
            f"{subject} has unknown keys: {', '.join(unknown)}. Known keys: {', '.join(sorted(names))}.",
            line,
        )


def prompt_of(value: Any, line: int, tally: Tally) -> PromptRecord:
    """Return the record of a line. Raises BadInput."""
    _check_names(value, LINE, "a line", line)
    tally.read["lines"] += 1
    tally.columns.add({name: _parsed(item) for name, item in value.items()}, MEANING)
    listed = _list(value, "responses", line)
    responses = [_response(response, line) for response in listed]
    indexes = _indexes_by_name(listed, line)
    if value.get("tasks") is not None:
        for name in ("rankings", "gold", "priority"):
            if value.get(name) not in (None, []):
                raise BadInput(
                    f'a line with "tasks" must have "{name}" in each task, not at the top level.',
                    line,
                )
        tasks = [_task(item, indexes, line) for item in _list(value, "tasks", line)]
    else:
        tasks = _only_task(value, indexes, line)
    tally.read["responses"] += len(responses)
    tally.read["rankings"] += sum(len(task.rankings) for task in tasks)
    if golds := sum(task.gold is not None for task in tasks):
        tally.read["gold tasks"] += golds
    if not isinstance(meta := finite(_parsed(value.get("meta"))) or {}, dict):
        raise BadInput('"meta" must be an object.', line)
    if not tasks:
        tally.left_out["lines with fewer than two responses (no task)"] += 1
    return PromptRecord(
        line=line,
        messages=_messages(value, line, tally),
        responses=responses,
        tasks=tasks,
        external_id=name_of(value.get("id")),
        meta=meta,
    )


def _messages(value: dict[str, Any], line: int, tally: Tally) -> list[dict[str, str]]:
    chat = _parsed(value.get("messages"))
    if not isinstance(chat, list) or not chat:
        raise BadInput('"messages" must be a list of {"role", "content"} that is not empty.', line)
    messages = [values.message(item, line, "messages", tally, "messages[].") for item in chat]
    if not can_be_answered(messages):
        raise BadInput("the last message is the assistant's, so there is nothing to answer.", line)
    return messages


def _parsed(value: Any) -> Any:
    """Return the list or object that a text contains as JSON, or the value itself otherwise."""
    content = values.parsed(value) if isinstance(value, str) else None
    return value if content is None else content


def _list(value: dict[str, Any], name: str, line: int) -> list[Any]:
    items = _parsed(value.get(name)) or []
    if not isinstance(items, list):
        raise BadInput(f'"{name}" must be a list.', line)
    return items


def _response(value: Any, line: int) -> ResponseRecord:
    if (text := values.as_text(value)) is not None:
        return ResponseRecord(text, "unknown")
    _check_names(value, RESPONSE, "a response", line)
    if (text := values.as_text(value.get("text"))) is None:
        raise BadInput('each response must have a "text".', line)
    seed, sampling = value.get("seed"), finite(_parsed(value.get("sampling"))) or {}
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise BadInput('the "seed" of a response must be a whole number.', line)
    if seed is not None and seed.bit_length() > 63:
        raise BadInput('the "seed" of a response must fit into 64 bits.', line)
    if not isinstance(sampling, dict):
        raise BadInput('"sampling" must be an object.', line)
    name = value["external_id"] if value.get("external_id") is not None else value.get("id")
    return ResponseRecord(
        text,
        str(value.get("model") or "unknown"),
        name_of(name),
        seed,
        sampling,
    )


Indexes = Mapping[Any, int]


def _indexes_by_name(responses: Sequence[Any], line: int) -> Indexes:
    names = [response.get("id") if isinstance(response, dict) else None for response in responses]
    if None in names:
        return {index: index for index in range(len(responses))}
    try:
        indexes = {name: index for index, name in enumerate(names)}
    except TypeError:
        raise BadInput("the id of a response must be text or a number.", line) from None
    if len(indexes) < len(names):
        raise BadInput("two responses have the same id.", line)
    return indexes


# --- tasks ---------------------------------------------------------------------------------------


def _only_task(value: dict[str, Any], indexes: Indexes, line: int) -> list[TaskRecord]:
    items = _list(value, "rankings", line)
    if items and len(indexes) < 2:
        raise _wrong_size(len(indexes), line)
    rankings = [_ranking(item, indexes, line) for item in items]
    if len(indexes) > 9:
        raise _wrong_size(len(indexes), line)
    gold = _gold(value, indexes, line)
    if gold and len(indexes) < 2:
        raise _wrong_size(len(indexes), line)
    kind = Task.Kind.GOLD if gold else Task.Kind.RANKING
    whole = TaskRecord(
        line, list(indexes.values()), rankings, _priority(value, line), None, kind.value, gold
    )
    return [whole] if len(indexes) > 1 else []


def _task(value: Any, indexes: Indexes, line: int) -> TaskRecord:
    _check_names(value, TASK, "a task", line)
    responses = [_index(name, indexes, line) for name in _list(value, "responses", line)]
    if not 2 <= len(responses) <= 9:
        raise _wrong_size(len(responses), line)
    rankings_wanted, kind = (
        value.get("rankings_wanted"),
        value.get("kind") or Task.Kind.RANKING.value,
    )
    if rankings_wanted is not None and (
        isinstance(rankings_wanted, bool) or rankings_wanted not in range(1, 10)
    ):
        raise BadInput(f'"rankings_wanted" must be from 1 to 9; got {rankings_wanted!r}.', line)
    if kind not in KINDS:
        raise BadInput(
            f'the "kind" of a task must be one of {", ".join(KINDS)}; got {kind!r}.', line
        )
    rankings = [_ranking(item, indexes, line) for item in _list(value, "rankings", line)]
    gold = _gold(value, indexes, line)
    kind = Task.Kind.GOLD.value if gold else kind
    name = name_of(value.get("id"))
    return TaskRecord(
        line, responses, rankings, _priority(value, line), rankings_wanted, kind, gold, name
    )


def _wrong_size(responses: int, line: int) -> BadInput:
    return BadInput(f"a task has 2 to 9 responses; this one has {responses}.", line)


def _gold(value: dict[str, Any], indexes: Indexes, line: int) -> GoldRecord | None:
    """Return the known answer without checking it, which labeling.gold.constraints does later."""
    if (gold := _parsed(value.get("gold"))) is None:
        return None
    _check_names(gold, GOLD, '"gold"', line)
    constraints = [
        {
            key: _index(name, indexes, line) if key in ("a", "b") else name
            for key, name in constraint.items()
        }
        if isinstance(constraint, dict)
        else constraint
        for constraint in _list(gold, "constraints", line)
    ]
    return GoldRecord(
        constraints, str(gold.get("purpose") or "check"), str(gold.get("explanation") or "")
    )


def _priority(value: dict[str, Any], line: int) -> int:
    if value.get("priority") is None:
        return 5
    priority = number(value["priority"])
    if priority is None or priority not in range(10):
        raise BadInput(f'"priority" must be from 0 to 9; got {value["priority"]!r}.', line)
    return int(priority)


def _ranking(value: Any, indexes: Indexes, line: int) -> RankingRecord:
    _check_names(value, RANKING, "a ranking", line)
    reviewer, tiers = value.get("reviewer"), value.get("tiers")
    if not isinstance(reviewer, str) or not reviewer.strip():
        raise BadInput('each ranking must have a "reviewer".', line)
    if not isinstance(tiers, list) or not all(isinstance(tier, list) for tier in tiers):
        raise BadInput('"tiers" must be a list of lists, best first.', line)
    fields = {
        name: value[name]
        for name in ("cut", "strength", "rationale", "active_seconds")
        if value.get(name) is not None
    }
    for name in ("strength", "active_seconds"):
        if name in fields and (isinstance(fields[name], str) or number(fields[name]) is None):
            raise BadInput(f'"{name}" must be a finite number; got {str(fields[name])[:40]}.', line)
    return RankingRecord(
        reviewer=reviewer.strip(),
        tiers=[[_index(name, indexes, line) for name in tier] for tier in tiers],
        ratings=_by_index(value, "ratings", indexes, line),
        flags=_by_index(value, "flags", indexes, line),
        shown_order=_shown_order(value, indexes, line),
        created_at=_moment(value.get("created_at"), line),
        **fields,
    )


def _shown_order(value: dict[str, Any], indexes: Indexes, line: int) -> list[int]:
    """Return the order in which the responses were shown, from "shown_order" or "rationale_letters".

    "rationale_letters" gives this order as an object: {"A": 2, "B": 0, "C": 1}.
    """
    if value.get("shown_order") is None and value.get("rationale_letters") is None:
        return []
    order = [_index(name, indexes, line) for name in _list(value, "shown_order", line)]
    letters = _parsed(value.get("rationale_letters")) or {}
    if not isinstance(letters, dict) or sorted(letters) != list(LETTERS[: len(letters)]):
        raise BadInput(
            '"rationale_letters" must be an object that maps each letter from A on to a response.',
            line,
        )
    lettered = [_index(letters[letter], indexes, line) for letter in sorted(letters)]
    if order and lettered and order != lettered:
        raise BadInput('"shown_order" and "rationale_letters" contradict each other.', line)
    return order or lettered


def _moment(value: Any, line: int) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    try:
        moment = parse_datetime(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or not is_aware(moment):
        sentence = f'"created_at" must be a time with a time zone, such as 2026-02-28T12:00:00Z; got {value!r}.'
        raise BadInput(sentence, line)
    return moment


def _index(name: Any, indexes: Indexes, line: int) -> int:
    try:
        if not isinstance(name, bool):
            return indexes[name]
    except (KeyError, TypeError):
        pass
    raise BadInput(f"there is no response {name!r}; the responses are {list(indexes)}.", line)


def _by_index(value: dict[str, Any], name: str, indexes: Indexes, line: int) -> dict[int, Any]:
    """Return the object `name` keyed by response index.

    JSON keys are always text, even if they are response indexes.
    """
    if value.get(name) is None:
        return {}
    by_response = _parsed(value[name]) or {}
    if not isinstance(by_response, dict):
        raise BadInput(f'"{name}" must be an object with a key for each response.', line)
    kind = dict if name == "ratings" else list
    if not all(isinstance(content, kind) for content in by_response.values()):
        expected = "an object with a key for each criterion" if kind is dict else "a list"
        raise BadInput(f'"{name}" of a response must be {expected}.', line)
    named = {str(key): index for key, index in indexes.items()}
    return {_index(key, named, line): content for key, content in by_response.items()}

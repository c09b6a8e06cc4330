"""The product's own plain form: one JSON object a line, one prompt each.

    {"messages": [{"role": "user", "content": "…"}],
     "responses": [{"text": "…", "model": "…"}, …],
     "rankings": [{"reviewer": "ada", "tiers": [[1], [0, 2]], "cut": 1, "rationale": "…"}]}

Tiers are lists of places in "responses", from 0, best first; or of the responses' ids, when every
response has an "id". A line may hold a prompt alone, or responses without rankings: those become a
task for reviewers. Also read: "id", "meta" and "priority" of the line; "strength", "ratings",
"flags" and "active_seconds" of a ranking. Any other name is refused, so that a slip is noticed.

"gold" says what is known of the answer, as labeling.gold.constraints has it but with the responses named as in
tiers: {"constraints": [{"kind": "above", "a": 0, "b": 2}], "purpose": "check", "explanation": "…"}.

`manage.py export --format full` writes the same with several tasks to a prompt: "tasks", each with
the places of its "responses", its "rankings", "priority", "rankings_wanted" and "kind".
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_aware

from labeling.core.letter_references import LETTERS
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
from labeling.importing.source import each_row
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
    yield from each_row(path, tally, lambda line, value: [_prompt(value, line, tally)])


def _known(value: Any, names: set[str], what: str, line: int) -> None:
    if not isinstance(value, dict):
        raise BadInput(f"{what} must be a JSON object.", line)
    if unknown := sorted(value.keys() - names):
        raise BadInput(
            f"{what} has {', '.join(unknown)}; it may have {', '.join(sorted(names))}.", line
        )


def _prompt(value: dict[str, Any], line: int, tally: Tally) -> PromptRecord:
    _known(value, LINE, "a line", line)
    tally.read["lines"] += 1
    tally.columns.add({name: _parsed(item) for name, item in value.items()}, MEANING)
    responses = [_response(response, line) for response in _list(value, "responses", line)]
    places = _places_by_name(_list(value, "responses", line), line)
    if value.get("tasks") is not None:
        for name in ("rankings", "gold", "priority"):
            if value.get(name) not in (None, []):
                raise BadInput(
                    f'a line with "tasks" has "{name}" in each task, not in itself.', line
                )
        tasks = [_task(one, places, line) for one in _list(value, "tasks", line)]
    else:
        tasks = _only_task(value, places, line)
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
        raise BadInput('"messages" must be a list of {"role", "content"}, not empty.', line)
    messages = [values.message(item, line, "messages", tally, "messages[].") for item in chat]
    if not can_be_answered(messages):
        raise BadInput("the last message is the assistant's; there is nothing to answer.", line)
    return messages


def _parsed(value: Any) -> Any:
    """Return the list or object that a cell of a table holds as JSON; other values as they are."""
    found = values.parsed(value) if isinstance(value, str) else None
    return value if found is None else found


def _list(value: dict[str, Any], name: str, line: int) -> list[Any]:
    found = _parsed(value.get(name)) or []
    if not isinstance(found, list):
        raise BadInput(f'"{name}" must be a list.', line)
    return found


def _response(value: Any, line: int) -> ResponseRecord:
    if (text := values.as_text(value)) is not None:
        return ResponseRecord(text, "unknown")
    _known(value, RESPONSE, "a response", line)
    if (text := values.as_text(value.get("text"))) is None:
        raise BadInput('each response must have a "text".', line)
    seed, sampling = value.get("seed"), finite(_parsed(value.get("sampling"))) or {}
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise BadInput('the "seed" of a response is a whole number.', line)
    if seed is not None and seed.bit_length() > 63:
        raise BadInput('the "seed" of a response has more than 64 bits.', line)
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


Places = Mapping[Any, int]


def _places_by_name(responses: Sequence[Any], line: int) -> Places:
    names = [one.get("id") if isinstance(one, dict) else None for one in responses]
    if any(name is None for name in names):
        return {place: place for place in range(len(responses))}
    try:
        places = {name: place for place, name in enumerate(names)}
    except TypeError:
        raise BadInput("the id of a response is text or a number.", line) from None
    if len(places) < len(names):
        raise BadInput("two responses have the same id.", line)
    return places


# --- tasks ---------------------------------------------------------------------------------------


def _only_task(value: dict[str, Any], places: Places, line: int) -> list[TaskRecord]:
    said = _list(value, "rankings", line)
    if said and len(places) < 2:
        raise BadInput(f"there are rankings of {len(places)} response(s); it takes two.", line)
    made = [_ranking(one, places, line) for one in said]
    if len(places) > 9:
        raise BadInput(f"a task ranks at most 9 responses; there are {len(places)}.", line)
    known = _gold(value, places, line)
    if known and len(places) < 2:
        raise BadInput("a gold task has at least two responses.", line)
    kind = Task.Kind.GOLD if known else Task.Kind.RANKING
    whole = TaskRecord(
        line, list(places.values()), made, _priority(value, line), None, kind.value, known
    )
    return [whole] if len(places) > 1 else []


def _task(value: Any, places: Places, line: int) -> TaskRecord:
    _known(value, TASK, "a task", line)
    responses = [_place(name, places, line) for name in _list(value, "responses", line)]
    if not 2 <= len(responses) <= 9:
        raise BadInput(f"a task ranks 2 to 9 responses; this one has {len(responses)}.", line)
    wanted, kind = value.get("rankings_wanted"), value.get("kind") or Task.Kind.RANKING.value
    if wanted is not None and (isinstance(wanted, bool) or wanted not in range(1, 10)):
        raise BadInput(f'"rankings_wanted" goes from 1 to 9; got {wanted!r}.', line)
    if kind not in KINDS:
        raise BadInput(f'the "kind" of a task is one of {", ".join(KINDS)}; got {kind!r}.', line)
    made = [_ranking(one, places, line) for one in _list(value, "rankings", line)]
    known = _gold(value, places, line)
    kind = Task.Kind.GOLD.value if known else kind
    name = name_of(value.get("id"))
    return TaskRecord(line, responses, made, _priority(value, line), wanted, kind, known, name)


def _gold(value: dict[str, Any], places: Places, line: int) -> GoldRecord | None:
    """What is known of the answer; labeling.gold.constraints says what is wrong with it."""
    if (said := _parsed(value.get("gold"))) is None:
        return None
    _known(said, GOLD, '"gold"', line)
    constraints = [
        {name: _place(of, places, line) if name in ("a", "b") else of for name, of in one.items()}
        if isinstance(one, dict)
        else one
        for one in _list(said, "constraints", line)
    ]
    return GoldRecord(
        constraints, str(said.get("purpose") or "check"), str(said.get("explanation") or "")
    )


def _priority(value: dict[str, Any], line: int) -> int:
    if value.get("priority") is None:
        return 5
    priority = number(value["priority"])
    if priority is None or priority not in range(10):
        raise BadInput(f'"priority" goes from 0 to 9; got {value["priority"]!r}.', line)
    return int(priority)


def _ranking(value: Any, places: Places, line: int) -> RankingRecord:
    _known(value, RANKING, "a ranking", line)
    reviewer, tiers = value.get("reviewer"), value.get("tiers")
    if not isinstance(reviewer, str) or not reviewer.strip():
        raise BadInput('each ranking must say its "reviewer".', line)
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
        tiers=[[_place(name, places, line) for name in tier] for tier in tiers],
        ratings=_by_place(value, "ratings", places, line),
        flags=_by_place(value, "flags", places, line),
        shown_order=_shown_order(value, places, line),
        created_at=_moment(value.get("created_at"), line),
        **fields,
    )


def _shown_order(value: dict[str, Any], places: Places, line: int) -> list[int]:
    """As given, else from "rationale_letters", which say the same: {"A": 2, "B": 0, "C": 1}."""
    order = [_place(name, places, line) for name in _list(value, "shown_order", line)]
    letters = _parsed(value.get("rationale_letters")) or {}
    if not isinstance(letters, dict) or sorted(letters) != list(LETTERS[: len(letters)]):
        raise BadInput(
            '"rationale_letters" must be an object that gives each letter from A on a response.',
            line,
        )
    lettered = [_place(letters[letter], places, line) for letter in sorted(letters)]
    if order and lettered and order != lettered:
        raise BadInput('"shown_order" and "rationale_letters" contradict each other.', line)
    return order or lettered


def _moment(value: Any, line: int) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    try:
        found = parse_datetime(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or not is_aware(found):
        sentence = f'"created_at" is a moment such as 2026-02-28T12:00:00Z; got {value!r}.'
        raise BadInput(sentence, line)
    return found


def _place(name: Any, places: Places, line: int) -> int:
    try:
        if not isinstance(name, bool):
            return places[name]
    except (KeyError, TypeError):
        pass
    raise BadInput(f"there is no response {name!r}; there are {list(places)}.", line)


def _by_place(value: dict[str, Any], name: str, places: Places, line: int) -> dict[int, Any]:
    """Keys of a JSON object are text, also where the responses are counted."""
    given = _parsed(value.get(name)) or {}
    if not isinstance(given, dict):
        raise BadInput(f'"{name}" must be an object by response.', line)
    kind = dict if name == "ratings" else list
    if not all(isinstance(content, kind) for content in given.values()):
        what = "an object by criterion" if kind is dict else "a list"
        raise BadInput(f'"{name}" of a response must be {what}.', line)
    named = {str(key): place for key, place in places.items()}
    return {_place(key, named, line): content for key, content in given.items()}

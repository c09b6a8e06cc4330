"""The product's own plain form: one JSON object a line, one prompt each.

    {"messages": [{"role": "user", "content": "…"}],
     "responses": [{"text": "…", "model": "…"}, …],
     "rankings": [{"reviewer": "ada", "tiers": [[1], [0, 2]], "cut": 1, "rationale": "…"}]}

Tiers are lists of places in "responses", from 0, best first; or of the responses' ids, when every
response has an "id". A line may hold a prompt alone, or responses without rankings: those become a
task for reviewers. Also read: "id", "meta" and "priority" of the line; "strength", "ratings",
"flags" and "active_seconds" of a ranking. Any other name is refused, so that a slip is noticed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labeling.importers.records import (
    BadInput,
    PromptRecord,
    RankingRecord,
    ResponseRecord,
    Tally,
    TaskRecord,
    check_messages,
)
from labeling.importers.source import json_lines

LINE = {"messages", "responses", "rankings", "id", "meta", "priority"}
RESPONSE = {"text", "model", "id"}
RANKING = {
    "reviewer", "tiers", "cut", "strength", "ratings", "flags", "rationale", "active_seconds",
}  # fmt: skip


def recognises(first: Any) -> bool:
    return isinstance(first, dict) and "messages" in first


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    for line, value in json_lines(path):
        _known(value, LINE, "a line", line)
        tally.read["lines"] += 1
        yield _prompt(value, line, tally)


def _known(value: Any, names: set[str], what: str, line: int) -> None:
    if not isinstance(value, dict):
        raise BadInput(f"{what} must be a JSON object.", line)
    if unknown := sorted(value.keys() - names):
        raise BadInput(
            f"{what} has {', '.join(unknown)}; it may have {', '.join(sorted(names))}.", line
        )


def _prompt(value: dict[str, Any], line: int, tally: Tally) -> PromptRecord:
    responses = [_response(response, line) for response in _list(value, "responses", line)]
    places = _places_by_name(value.get("responses") or [], line)
    said = _list(value, "rankings", line)
    if said and len(responses) < 2:
        raise BadInput(f"there are rankings of {len(responses)} response(s); it takes two.", line)
    made = [_ranking(ranking, places, line) for ranking in said]
    tally.read["responses"] += len(responses)
    tally.read["rankings"] += len(made)
    if len(responses) > 9:
        raise BadInput(f"a task ranks at most 9 responses; there are {len(responses)}.", line)
    if not isinstance(meta := value.get("meta") or {}, dict):
        raise BadInput('"meta" must be an object.', line)
    priority = value.get("priority", 5)
    if isinstance(priority, bool) or priority not in range(10):
        raise BadInput(f'"priority" goes from 0 to 9; got {priority!r}.', line)
    whole = TaskRecord(line, list(range(len(responses))), made, priority)
    if len(responses) < 2:
        tally.left_out["lines with fewer than two responses (no task)"] += 1
    return PromptRecord(
        line=line,
        messages=check_messages(value.get("messages"), line),
        responses=responses,
        tasks=[whole] if len(responses) >= 2 else [],
        external_id=str(value.get("id") or ""),
        meta=meta,
    )


def _list(value: dict[str, Any], name: str, line: int) -> list[Any]:
    found = value.get(name) or []
    if not isinstance(found, list):
        raise BadInput(f'"{name}" must be a list.', line)
    return found


def _response(value: Any, line: int) -> ResponseRecord:
    _known(value, RESPONSE, "a response", line)
    if not isinstance(value.get("text"), str):
        raise BadInput('each response must have a "text".', line)
    return ResponseRecord(
        value["text"], str(value.get("model") or "unknown"), str(value.get("id", ""))
    )


def _places_by_name(responses: list[dict[str, Any]], line: int) -> Mapping[Any, int]:
    names = [response.get("id") for response in responses]
    if any(name is None for name in names):
        return {place: place for place in range(len(responses))}
    try:
        places = {name: place for place, name in enumerate(names)}
    except TypeError:
        raise BadInput("the id of a response is text or a number.", line) from None
    if len(places) < len(names):
        raise BadInput("two responses have the same id.", line)
    return places


def _ranking(value: Any, places: Mapping[Any, int], line: int) -> RankingRecord:
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
    seconds = fields.get("active_seconds", 0.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise BadInput('"active_seconds" must be a number.', line)
    return RankingRecord(
        reviewer=reviewer.strip(),
        tiers=[[_place(name, places, line) for name in tier] for tier in tiers],
        ratings=_by_place(value, "ratings", places, line),
        flags=_by_place(value, "flags", places, line),
        **fields,
    )


def _place(name: Any, places: Mapping[Any, int], line: int) -> int:
    try:
        if not isinstance(name, bool):
            return places[name]
    except (KeyError, TypeError):
        pass
    raise BadInput(f"there is no response {name!r}; there are {list(places)}.", line)


def _by_place(
    value: dict[str, Any], name: str, places: Mapping[Any, int], line: int
) -> dict[int, Any]:
    """Keys of a JSON object are text, also where the responses are counted."""
    given = value.get(name) or {}
    if not isinstance(given, dict):
        raise BadInput(f'"{name}" must be an object by response.', line)
    named = {str(key): place for key, place in places.items()}
    return {_place(key, named, line): content for key, content in given.items()}

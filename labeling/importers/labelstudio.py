"""Label Studio's JSON export: tasks with their annotations.

Read are the results of Ranker (an order, or buckets), Pairwise (left or right) and Choices with the
answer left, right or a tie. `completed_by` is the reviewer, named "labelstudio-" and their number;
`lead_time` is the active time. A cancelled annotation is left out, and so is any other result.

The items of a Ranker are the list in `data` that has their ids. The sides of a pair are two texts in
`data` whose names differ in their ending only: 1 and 2, a and b, left and right. With several
buckets, each is a tier, in the order of the export; what stayed in "_" was not ranked. A ranking
that gave a choice and a pairwise answer counts once.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labeling.importers.conversations import Draft, account, as_messages, name_of, number, text_of
from labeling.importers.records import BadInput, PromptRecord, Tally
from labeling.importers.source import rows

PROMPT = (
    "prompt",
    "messages",
    "question",
    "instruction",
    "query",
    "conversation",
    "context",
    "text",
)
ENDINGS = (("1", "2"), ("a", "b"), ("A", "B"), ("left", "right"), ("one", "two"))
FIRST = re.compile(r"\b(left|first|1|a|one)\b")
SECOND = re.compile(r"\b(right|second|2|b|two)\b")
TIE = re.compile(r"\b(ties?|tied|equal(ly)?|same|both|neither|draw)\b")
UNREAD = "annotations without a ranking, a pairwise answer or a choice between two"


def recognises(first: Any) -> bool:
    return (
        isinstance(first, dict)
        and isinstance(first.get("data"), dict)
        and isinstance(first.get("annotations", first.get("completions")), list)
    )


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    for line, task in rows(path):
        if not recognises(task):
            raise BadInput('a task must have "data" and "annotations".', line)
        tally.read["tasks"] += 1
        yield from _draft(task, line, tally).records(tally)


def _draft(task: dict[str, Any], line: int, tally: Tally) -> Draft:
    data = task["data"]
    items, sides = _items(data), _sides(data)
    if not items and not sides:
        raise BadInput(
            f"found neither a list of items with ids nor two texts in data: {', '.join(data)}.",
            line,
        )
    name = next((name for name in PROMPT if data.get(name) and name not in sides), None)
    if name is None:
        raise BadInput(f"data has no prompt; one of {', '.join(PROMPT)} is.", line)
    draft = Draft(
        line, as_messages(data[name], line, name), external_id=name_of(task.get("id")),
        meta=_account(task, name, sides, tally),
    )  # fmt: skip
    places: dict[str, int] = {}
    for key, item in items.items():
        texts = [item.get(part) for part in ("text", "body", "html", "content")]
        text = next((t for t in texts if isinstance(t, str) and t), "") or text_of(item, ("title",))
        model = text_of(item, ("model",)) or (text_of(item, ("title",)) if any(texts) else "")
        places[key] = draft.place(text, model, key)
    for side in sides:
        places[side] = draft.place(
            str(data[side]), text_of(data, (f"model_{side}", f"{side}_model"))
        )
    for annotation in task.get("annotations", task.get("completions")) or []:
        _judge(draft, annotation, places, sides, line, tally)
    return draft


def _account(
    task: dict[str, Any], prompt: str, sides: tuple[str, ...], tally: Tally
) -> dict[str, Any]:
    """Count the keys of a task and return those of its data that are kept with the prompt."""
    read = {"id": "id", "data": "prompt", "annotations": "ranking", "completions": "ranking"}
    tally.columns.add(task, read)
    data = task["data"]
    items = [name for name, value in data.items() if _items({name: value})]
    models = [name for side in sides for name in (f"model_{side}", f"{side}_model")]
    meaning = {prompt: "prompt", **dict.fromkeys((*sides, *items), "response")}
    meaning |= dict.fromkeys(models, "model")
    return account(data, meaning, tally, prefix="data.")


def _items(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    for value in data.values():
        if (
            isinstance(value, list)
            and value
            and all(isinstance(i, dict) and "id" in i for i in value)
        ):
            return {str(item["id"]): item for item in value}
    return {}


def _sides(data: dict[str, Any]) -> tuple[str, ...]:
    for first, second in ENDINGS:
        for name in data:
            other = name.removesuffix(first) + second
            if (
                name.endswith(first)
                and isinstance(data[name], str)
                and isinstance(data.get(other), str)
            ):
                return name, other
    return ()


def _judge(
    draft: Draft,
    annotation: Any,
    places: dict[str, int],
    sides: tuple[str, ...],
    line: int,
    tally: Tally,
) -> None:
    if not isinstance(annotation, dict):
        raise BadInput("an annotation must be an object.", line)
    tally.read["annotations"] += 1
    if annotation.get("was_cancelled"):
        tally.left_out["cancelled annotations"] += 1
        return
    if not isinstance(annotation.get("result"), list):
        raise BadInput('an annotation must have a list of "result".', line)
    orders = (_tiers(result, places, sides, line) for result in annotation["result"])
    tiers = next((order for order in orders if order), None)
    if not tiers:
        tally.left_out[UNREAD] += 1
        return
    seconds = number(annotation.get("lead_time")) or 0.0
    draft.judge(_reviewer(annotation), tiers, tally, active_seconds=seconds)


def _reviewer(annotation: dict[str, Any]) -> str:
    by = annotation.get("completed_by")
    name = by.get("id", by.get("username")) if isinstance(by, dict) else by
    return f"labelstudio-{name}" if name is not None else "labelstudio"


def _tiers(
    result: Any, places: dict[str, int], sides: tuple[str, ...], line: int
) -> list[list[int]] | None:
    value = result.get("value") if isinstance(result, dict) else None
    if not isinstance(value, dict):
        return None
    if "ranker" in value:
        return _ranked(value["ranker"], places, line)
    said = value.get("selected") or value.get("choices")
    if not said or len(sides) != 2:
        return None
    answer = " ".join(said if isinstance(said, list) else [str(said)]).lower().replace("_", " ")
    first, second = places[sides[0]], places[sides[1]]
    if answer in (sides[0].lower(), sides[1].lower()):
        return [[first], [second]] if answer == sides[0].lower() else [[second], [first]]
    if TIE.search(answer):
        return [[first, second]]
    hits = bool(FIRST.search(answer)), bool(SECOND.search(answer))
    return {(True, False): [[first], [second]], (False, True): [[second], [first]]}.get(hits)


def _ranked(ranker: Any, places: dict[str, int], line: int) -> list[list[int]]:
    if isinstance(ranker, list):
        tiers = [[key] for key in ranker]
    elif isinstance(ranker, dict):
        buckets = [keys for name, keys in ranker.items() if name != "_" and keys]
        tiers = [[key] for key in buckets[0]] if len(ranker) == 1 and buckets else buckets
    else:
        raise BadInput('"ranker" must be a list of ids, or buckets of them.', line)
    try:
        return [[places[str(key)] for key in tier] for tier in tiers]
    except KeyError as missing:
        raise BadInput(f"the ranking names the item {missing}, which data has not.", line) from None

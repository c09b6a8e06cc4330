"""Label Studio exports: tasks with their annotations as JSON, or one row per annotation.

This reads the results of Ranker (an order, or buckets), Pairwise (left or right) and Choices (left,
right or a tie). `completed_by` is the reviewer, who is named "labelstudio-" and the user's number.
`lead_time` is the active time. Texts in an annotation with a ranking are its rationale. Cancelled
annotations and other results are left out.

A Ranker's items are the list in `data` that contains their ids. The sides of a pair are two texts in
`data` whose names differ only in their ending: 1 and 2, a and b, left and right. Each bucket is a tier,
in the order of the export; items in the bucket "_" were not ranked. An annotation with both a choice
and a pairwise answer is read once.

JSON_MIN and CSV have one row per annotation, with the task's data and a column for each result. This
module reads such a row if it contains a Ranker's items, a result that is an object, or a text that is a
choice. Other rows are read as tables (labeling.importing.formats.columns).
"""

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from labeling.importing.files.source import each_row
from labeling.importing.formats.columns import values
from labeling.importing.formats.conversations import (
    Draft,
    account,
    in_tiers,
    name_of,
    number,
    text_of,
)
from labeling.importing.records import NESTED, BadInput, Meaning, PromptRecord, Tally

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
ENDINGS = ("123456789", "abcdefghi", "ABCDEFGHI", ("left", "right"), ("one", "two", "three"))
FIRST = re.compile(r"\b(left|first|1|a|one)\b")
SECOND = re.compile(r"\b(right|second|2|b|two)\b")
PLAIN = re.compile(
    r"(?:the )?(?:(?:answer|response|reply|output|completion|option|text|model|candidate)[ _-]?\w{1,5}"
    r"|left|right|first|second)(?: (?:one|side))?(?: (?:is|was)(?: \w+){0,3})?[.!]?",
    re.IGNORECASE,
)
"""Matches a choice of a side in words. A single letter or number could also be a grade."""
TIE = re.compile(r"\b(ties?|tied|equal(ly)?|same|both|neither|draw)\b")
UNREAD = "annotations without a ranking, a pairwise answer or a choice between two"


FURTHER = "further results of annotations, in addition to the one read as the ranking"
OTHER = "results of annotations that are neither a ranking nor a text"
ITEM_TEXT = ("text", "body", "html", "content")

RESULT = {"value": {"*": "unused", "ranker": "ranking", "selected": "ranking", "choices": "ranking", "rating": "ranking", "text": "rationale"}}  # fmt: skip
ANNOTATION: Meaning = {
    "completed_by": {"": "reviewer", "id": "reviewer", "username": "reviewer", "email": "reviewer"},
    "was_cancelled": "status", "lead_time": "active time", "result": RESULT,
}  # fmt: skip
TASK: Meaning = {
    "id": "id", "data": NESTED, "annotations": ANNOTATION, "completions": ANNOTATION,
}  # fmt: skip
FLAT: Meaning = {
    "id": "id", "annotator": "reviewer", "lead_time": "active time", "annotation_id": "unused",
    "created_at": "unused", "updated_at": "unused", "agreement": "unused",
}  # fmt: skip
"""Columns of JSON_MIN and CSV that are not part of the task's data."""


def recognises(first: Any) -> bool:
    if not isinstance(first, dict):
        return False
    if isinstance(values.structure(first, "data"), dict):
        annotations = first.get("annotations", first.get("completions"))
        return isinstance(
            values.parsed(annotations) if isinstance(annotations, str) else annotations, list
        )
    opened = _with_parsed_cells(first)
    return _is_flat(first) and any(
        _items({name: value}) or _is_result(value) or _is_answer(name, opened)
        for name, value in opened.items()
    )


def _is_flat(row: dict[str, Any]) -> bool:
    """Return whether a row has the columns that JSON_MIN and CSV add to a task's data."""
    return "id" in row and len({"annotation_id", "annotator", "lead_time"} & row.keys()) > 1


def _with_parsed_cells(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with its cells parsed if they contain lists or objects."""
    return {name: values.structure(row, name) for name in row}


def _is_result(value: Any) -> bool:
    """Return whether the value is a result, or a list of results, of Ranker, Pairwise or Choices."""
    results = value if isinstance(value, list) else [value]
    return bool(results) and all(
        isinstance(item, dict) and {"ranker", "selected", "choices"} & item.keys()
        for item in results
    )


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    yield from each_row(path, tally, lambda line, task: _records(line, task, tally))


def _records(line: int, task: dict[str, Any], tally: Tally) -> Iterator[PromptRecord]:
    if _is_flat(task) and "data" not in task:
        task = _task_of(task, tally)
    else:
        task = _with_parsed_cells(task)
        if not recognises(task):
            raise BadInput('a task must have "data" and "annotations".', line)
        tally.columns.add(task, TASK)
    tally.read["tasks"] += 1
    yield from _draft(task, line, tally).records(tally)


def _task_of(row: dict[str, Any], tally: Tally) -> dict[str, Any]:
    """Convert a row of JSON_MIN or CSV to a task with one annotation."""
    opened = _with_parsed_cells(row)
    data = {name: value for name, value in opened.items() if name not in FLAT}
    names = {name for name in data if _is_result(data[name]) or _is_answer(name, data)}
    results = {name: data.pop(name) for name in list(data) if name in names}
    tally.columns.add({name: opened[name] for name in opened if name in FLAT}, FLAT)
    tally.columns.add(results, {name: {"": "ranking", **RESULT["value"]} for name in results})
    annotation = {
        "completed_by": row.get("annotator"),
        "lead_time": row.get("lead_time"),
        "result": [
            {"value": item if isinstance(item, dict) else {"choices": [item]}}
            for value in results.values()
            for item in (value if isinstance(value, list) else [value])
        ],
    }
    return {"id": row.get("id"), "data": data, "annotations": [annotation], "flat": True}


def _is_answer(name: str, data: dict[str, Any]) -> bool:
    """Return whether a column contains a text that chooses one side of a pair."""
    value, sides = data[name], _sides(data)
    return (
        bool(sides)
        and isinstance(value, str)
        and name not in (*sides, *PROMPT)
        and bool(value in sides or PLAIN.fullmatch(value.strip()) or TIE.fullmatch(value.lower()))
        and _choice(value, sides) is not None
    )


def _draft(task: dict[str, Any], line: int, tally: Tally) -> Draft:
    data = task["data"]
    items, sides = _items(data), _sides(data)
    if not items and not sides:
        raise BadInput(
            f"found neither a list of items with ids nor two texts in data: {', '.join(data)}.",
            line,
        )
    filled = {n.lower(): n for n in data if values.has_content(data[n]) and n not in sides}
    name = next((filled[name] for name in PROMPT if name in filled), None)
    prefix = "" if task.get("flat") else "data."
    meta = _account(data, name or "", sides, prefix, line, tally)
    if name is None:
        raise BadInput(
            f"data has no prompt; its keys are {', '.join(data)}. Name the prompt's key one of "
            f"{', '.join(PROMPT)}.",
            line,
        )
    draft = Draft(
        line,
        values.messages(data[name], line, f"{prefix}{name}", tally),
        external_id=name_of(task.get("id")),
        meta=meta,
    )
    indexes: dict[str, int] = {}
    for key, item in items.items():
        text, model = _text_and_model(item)
        indexes[key] = draft.add(
            text_of(item, (text,)), text_of(item, (model,)) if model else "", key
        )
    for side in sides:
        text = values.reply(data[side], line, f"{prefix}{side}", tally)
        indexes[side] = draft.add(text, text_of(data, (f"model_{side}", f"{side}_model")))
    for annotation in task.get("annotations", task.get("completions")) or []:
        _judge(draft, annotation, indexes, sides, line, tally)
    return draft


def _text_and_model(item: dict[str, Any]) -> tuple[str, str]:
    """Return the keys of an item's text and model. The latter is "" if the item has no model."""
    text = next((key for key in ITEM_TEXT if isinstance(item.get(key), str) and item[key]), "")
    model = "model" if item.get("model") else "title" if text and item.get("title") else ""
    return text or "title", model


def _account(
    data: dict[str, Any], prompt: str, sides: tuple[str, ...], prefix: str, line: int, tally: Tally
) -> dict[str, Any]:
    """Count the keys of a task's data, and return the values to store with the prompt."""
    listed = next((name for name in data if _items({name: data[name]})), None)
    if listed and len(_items(data)) < len(data[listed]):
        raise BadInput(f'two items of "{listed}" have the same id.', line)
    models = [name for side in sides for name in (f"model_{side}", f"{side}_model")]
    meaning = {prompt: "prompt", **dict.fromkeys(sides, "response")}
    meaning |= dict.fromkeys(models, "model")
    for item in data[listed] if listed else ():
        text, model = _text_and_model(item)
        of_item = {text: "response", "id": "response"} | ({model: "model"} if model else {})
        tally.columns.add(item, of_item, f"{prefix}{listed}[].")
    if listed:
        meaning[listed] = "response"
    return account(data, meaning, tally, prefix=prefix)


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
    """Return the keys of the responses: texts or chats whose keys differ only in their ending.

    A number or boolean is a response too if another one is a text. Numbers alone may be ratings.
    """
    return _siblings(data, texts=2) or (() if _items(data) else _siblings(data, texts=1))


def _siblings(data: dict[str, Any], *, texts: int) -> tuple[str, ...]:
    """Return the first keys that differ only in their ending, with at least `texts` texts among them."""
    for endings in ENDINGS:
        for name in data:
            if not name.endswith(endings[0]):
                continue
            stem = name.removesuffix(endings[0])
            names = [f"{stem}{ending}" for ending in endings]
            sides = tuple(takewhile(lambda side: _may_be_response(data.get(side)), names))
            if len(sides) > 1 and sum(_is_response(data[side]) for side in sides) >= texts:
                return sides
    return ()


def _is_response(value: Any) -> bool:
    return isinstance(value, str) or values.is_chat(value) or values.is_message(value)


def _may_be_response(value: Any) -> bool:
    return _is_response(value) or values.as_text(value) is not None


def _judge(
    draft: Draft,
    annotation: Any,
    indexes: dict[str, int],
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
    results = annotation.get("result") or []
    if not isinstance(results, list):
        raise BadInput('an annotation must have a list of "result".', line)
    orders, texts = _of_ratings(results, indexes, sides), []
    for result in results:
        order, text = _tiers(result, indexes, sides, line), _text(result)
        orders += [order] if order else []
        texts += [text] if text else []
        rated = _rating(result, sides) is not None
        tally.left_out[OTHER] += not order and not text and not rated
    if not orders:
        tally.left_out[UNREAD] += 1
        return
    tally.left_out[FURTHER] += len(orders) - 1
    draft.judge(
        _reviewer(annotation),
        orders[0],
        tally,
        active_seconds=number(annotation.get("lead_time")) or 0.0,
        rationale="\n\n".join(texts),
    )


def _rating(result: Any, sides: tuple[str, ...]) -> tuple[str, float] | None:
    """Return the rated side, according to the end of the rating's name, and the rating, or None."""
    if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
        return None
    rating, name = number(result["value"].get("rating")), str(result.get("from_name") or "")
    ends = [side for side in sides if name.lower().endswith((side.lower(), _mark(side)))]
    return (ends[0], rating) if len(ends) == 1 and rating is not None else None


def _of_ratings(
    results: list[Any], indexes: dict[str, int], sides: tuple[str, ...]
) -> list[list[list[int]]]:
    """Return a list with the tiers by rating if at least two sides are rated, or an empty list."""
    if any(_is_result(result.get("value")) for result in results if isinstance(result, dict)):
        return []  # a ranking has priority, because it judges the order directly
    rated = dict(filter(None, (_rating(result, sides) for result in results)))
    scores = {indexes[side]: rating for side, rating in rated.items()}
    return [in_tiers(scores)] if len(scores) > 1 else []


def _mark(side: str) -> str:
    """Return the ending that distinguishes a side's name from the others."""
    return next(
        (f"{ending}" for endings in ENDINGS for ending in endings if side.endswith(ending)), side
    ).lower()


def _text(result: Any) -> str:
    """Return the text that the reviewer wrote in a text area, or ""."""
    value = result.get("value") if isinstance(result, dict) else None
    content = value.get("text") if isinstance(value, dict) else None
    texts = content if isinstance(content, list) else [content]
    return "\n".join(text for text in texts if isinstance(text, str) and text.strip())


def _reviewer(annotation: dict[str, Any]) -> str:
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = next((by[key] for key in ("id", "username", "email") if by.get(key) is not None), None)
    return "labelstudio" if by in (None, "") else f"labelstudio-{by}"


def _tiers(
    result: Any, indexes: dict[str, int], sides: tuple[str, ...], line: int
) -> list[list[int]] | None:
    value = result.get("value") if isinstance(result, dict) else None
    if not isinstance(value, dict):
        return None
    if "ranker" in value:
        return _ranked(value["ranker"], indexes, line)
    choices = value.get("selected") or value.get("choices")
    if not choices or not sides:
        return None
    answer = " ".join(map(str, choices)) if isinstance(choices, list) else str(choices)
    if (choice := _choice(answer, sides)) is None:
        return None
    return [[indexes[sides[number]] for number in tier] for tier in choice]


def _choice(answer: str, sides: tuple[str, ...]) -> list[list[int]] | None:
    """Return tiers of side indexes for an answer in words, or None if it names no side."""
    indexes = list(range(len(sides)))
    words = re.sub(r"[\W_]+", " ", answer.lower()).strip()
    whole = [n for n, side in enumerate(sides) if answer.lower() == side.lower()]
    if TIE.search(words) and not whole:
        return [indexes]
    marks = [n for n, side in enumerate(sides) if re.search(rf"\b{_mark(side)}\b", words)]
    marks += [n for n, side in enumerate(sides) if re.sub(r"[\W_]+", " ", side.lower()) in words]
    if len(sides) == 2 and not marks:
        marks = [n for n, pattern in enumerate((FIRST, SECOND)) if pattern.search(words)]
    named = set(whole or marks)
    if len(named) != 1:
        return None
    best = named.pop()
    return [[best], [n for n in indexes if n != best]]


def _ranked(ranker: Any, indexes: dict[str, int], line: int) -> list[list[int]]:
    buckets = (
        [keys for name, keys in ranker.items() if name != "_" and keys]
        if isinstance(ranker, dict)
        else [ranker]
    )
    if not all(isinstance(keys, list) for keys in buckets):
        raise BadInput('"ranker" must be a list of ids, or buckets of them.', line)
    ordered = isinstance(ranker, list) or len(ranker) == 1
    tiers = [[key] for key in buckets[0]] if ordered and buckets else buckets
    try:
        return [[indexes[str(key)] for key in tier] for tier in tiers]
    except KeyError as missing:
        raise BadInput(
            f"the ranking contains the item {missing}, which is not in data.", line
        ) from None

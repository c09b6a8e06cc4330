"""UltraFeedback: an instruction with several completions, each rated.

    {"instruction": …, "completions": [{"model", "response", "overall_score": 7.5,
     "annotations": {"helpfulness": {"Rating": "4", "Rationale": …}, …}}, …]}

The overall scores become one ranking by the reviewer "ultrafeedback"; equal scores are a tie. If a
score is missing, the mean of the completion's ratings is used. A completion without either is stored as
a response but not ranked. The rating of an aspect is stored if the guideline has a criterion with the
same name. Rows of the form {"instruction", "generations", "ratings", "model_names"} are read too.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from labeling.importing.files.source import each_row
from labeling.importing.formats.columns import values
from labeling.importing.formats.conversations import Draft, account, in_tiers, number, text_of
from labeling.importing.records import BadInput, PromptRecord, Tally

REVIEWER = "ultrafeedback"
MEANING = {"instruction": "prompt", "completions": "response", "id": "id", "prompt_id": "id"}
LISTS = {
    "instruction": "prompt", "generations": "response", "ratings": "score",
    "model_names": "model", "models": "model", "id": "id", "prompt_id": "id",
}  # fmt: skip
SCORES = ("overall_score", "fine-grained_score", "fine_grained_score", "rating", "score")
COMPLETION = {
    "model": "model",
    "response": "response",
    "annotations": {"": "rating", "*": {"Rating": "rating"}},
}


def recognises(first: Any) -> bool:
    if not isinstance(first, dict) or "instruction" not in first:
        return False
    completions = values.structure(first, "completions")
    return _are_objects(completions) or ("generations" in first and "ratings" in first)


def _are_objects(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and "response" in item for item in value)
    )


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    yield from each_row(path, tally, lambda line, row: _records(line, row, tally))


def _records(line: int, row: dict[str, Any], tally: Tally) -> Iterator[PromptRecord]:
    tally.read["instructions"] += 1
    nested = values.structure(row, "completions") is not None
    meta = account(row, MEANING if nested else LISTS, tally)
    instruction = values.chat_or_text(row, "instruction")
    draft = Draft(
        line,
        values.messages(instruction, line, "instruction", tally),
        external_id=text_of(row, ("id", "prompt_id")),
        meta=meta,
    )
    scores: dict[int, float] = {}
    ratings: dict[int, dict[str, int]] = {}
    for completion in _completions(row, line):
        index = draft.add(_response(completion, line), text_of(completion, ("model",)))
        aspects = _aspects(completion)
        used = next((name for name in SCORES if number(completion.get(name)) is not None), "")
        if nested:
            tally.columns.add(completion, {**COMPLETION, used: "score"}, prefix="completions[].")
        score = (
            number(completion.get(used)) if used else mean(aspects.values()) if aspects else None
        )
        if score is None:
            tally.left_out["completions without a score (kept as responses)"] += 1
        else:
            scores.setdefault(index, score)
        ratings.setdefault(index, aspects)
    if len(scores) > 1:
        draft.judge(REVIEWER, in_tiers(scores), tally, ratings=ratings, own_scales=True)
    yield from draft.records(tally)


def _completions(row: dict[str, Any], line: int) -> list[dict[str, Any]]:
    completions = values.structure(row, "completions")
    if completions is None:
        completions = _of_lists(row, line)
    if not isinstance(completions, list) or not all(isinstance(item, dict) for item in completions):
        raise BadInput('"completions" must be a list of objects.', line)
    return completions


def _of_lists(row: dict[str, Any], line: int) -> list[dict[str, Any]]:
    """Return completions from equally long lists of texts, models and scores."""
    texts = values.structure(row, "generations") or []
    models_name = "model_names" if row.get("model_names") else "models"
    lists = {"generations": texts}
    for name in (models_name, "ratings"):
        values_of_name = values.structure(row, name) or [None] * len(texts)
        if (
            not isinstance(texts, list)
            or not isinstance(values_of_name, list)
            or len(values_of_name) != len(texts)
        ):
            raise BadInput(f'"{name}" must be a list with one value for each generation.', line)
        lists[name] = values_of_name
    return [
        {"response": text, "model": model, "overall_score": score}
        for text, model, score in zip(*lists.values(), strict=True)
    ]


def _response(completion: dict[str, Any], line: int) -> str:
    if (text := values.as_text(completion.get("response"))) is None:
        raise BadInput('each completion must have a "response".', line)
    return text


def _aspects(completion: dict[str, Any]) -> dict[str, int]:
    annotations = completion.get("annotations") or {}
    if not isinstance(annotations, dict):
        return {}
    read = {
        name: number(item.get("Rating"))
        for name, item in annotations.items()
        if isinstance(item, dict)
    }
    return {name: int(rating) for name, rating in read.items() if rating is not None}

"""UltraFeedback: an instruction with several completions, each rated.

    {"instruction": …, "completions": [{"model", "response", "overall_score": 7.5,
     "annotations": {"helpfulness": {"Rating": "4", "Rationale": …}, …}}, …]}

The overall scores become one ranking, by the reviewer "ultrafeedback", equal scores a tie; where a
completion has none, the mean of its ratings stands for it. A completion without either is kept as a
response and not ranked. Ratings by aspect are kept where the project's guideline has a criterion of
that name. Also read: {"instruction", "generations", "ratings", "model_names"}.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from labeling.importers.conversations import (
    Draft,
    account,
    as_messages,
    from_json,
    in_tiers,
    number,
    text_of,
)
from labeling.importers.records import BadInput, PromptRecord, Tally
from labeling.importers.source import objects

REVIEWER = "ultrafeedback"
MEANING = {
    "instruction": "prompt", "completions": "response", "generations": "response",
    "ratings": "score", "model_names": "model", "models": "model", "id": "id", "prompt_id": "id",
}  # fmt: skip
SCORES = ("overall_score", "fine-grained_score", "fine_grained_score", "rating", "score")
OF_ONE = {"model": "model", "response": "response", "annotations": "rating"}


def recognises(first: Any) -> bool:
    return (
        isinstance(first, dict)
        and "instruction" in first
        and bool({"completions", "generations"} & first.keys())
    )


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    for line, row in objects(path):
        tally.read["instructions"] += 1
        draft = Draft(
            line,
            as_messages(row.get("instruction"), line, "instruction"),
            external_id=text_of(row, ("id", "prompt_id")),
            meta=account(row, MEANING, tally),
        )
        scores: dict[int, float] = {}
        ratings: dict[int, dict[str, int]] = {}
        for one in _completions(row, line):
            place = draft.place(_response(one, line), text_of(one, ("model",)))
            aspects = _aspects(one)
            used = next((name for name in SCORES if number(one.get(name)) is not None), "")
            tally.columns.add(one, {**OF_ONE, used: "score"}, prefix="completions[].")
            score = _score(one, aspects)
            if score is None:
                tally.left_out["completions without a score (kept as responses)"] += 1
            else:
                scores.setdefault(place, score)
            ratings.setdefault(place, aspects)
        if len(scores) > 1:
            draft.judge(REVIEWER, in_tiers(scores), tally, ratings=ratings, own_scales=True)
        yield from draft.records(tally)


def _completions(row: dict[str, Any], line: int) -> list[dict[str, Any]]:
    found = from_json(row.get("completions"))
    if found is None:
        texts, models = (
            row.get("generations") or [],
            row.get("model_names") or row.get("models") or [],
        )
        scores = row.get("ratings") or []
        found = [
            {"response": text, "model": model, "overall_score": score}
            for text, model, score in zip(
                texts, [*models, *[""] * 9], [*scores, *[None] * 9], strict=False
            )
        ]
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise BadInput('"completions" must be a list of objects.', line)
    return found


def _response(completion: dict[str, Any], line: int) -> str:
    if not isinstance(text := completion.get("response"), str):
        raise BadInput('each completion must have a "response".', line)
    return text


def _aspects(completion: dict[str, Any]) -> dict[str, int]:
    said = completion.get("annotations") or {}
    if not isinstance(said, dict):
        return {}
    read = {name: number(one.get("Rating")) for name, one in said.items() if isinstance(one, dict)}
    return {name: int(rating) for name, rating in read.items() if rating is not None}


def _score(completion: dict[str, Any], aspects: dict[str, int]) -> float | None:
    for name in SCORES:
        if (score := number(completion.get(name))) is not None:
            return score
    return mean(aspects.values()) if aspects else None

"""HelpSteer3 preferences: a conversation, two responses, and several people's graded preferences.

    {"context": [{"role", "content"}, …], "response1": …, "response2": …, "overall_preference": -2,
     "individual_preference": [{"score": -2, "reasoning": …}, …]}

A score goes from -3 (response 1 is much better) to 3 (response 2 is much better); 0 is a tie. It
becomes the strength of a ranking. Each individual preference becomes a ranking by the reviewer
"helpsteer-1", "helpsteer-2", …, with its reasoning as the rationale. In a row without individual
preferences, the overall preference becomes a ranking by "helpsteer".
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labeling.importing.files.source import each_row
from labeling.importing.formats.columns import values
from labeling.importing.formats.conversations import (
    Draft,
    account,
    number,
    text_of,
    tiers_and_strength,
)
from labeling.importing.records import BadInput, PromptRecord, Tally

REVIEWER = "helpsteer"
MEANING = {
    "context": "prompt", "response1": "response", "response2": "response", "id": "id",
    "overall_preference": "preference",
    "individual_preference": {"": "preference", "score": "preference", "reasoning": "rationale"},
}  # fmt: skip
STRONGEST = 3
OVERALL = "overall preferences in rows with individual preferences, which are used instead"


def recognises(first: Any) -> bool:
    return (
        isinstance(first, dict)
        and {"context", "response1", "response2"} <= first.keys()
        and bool({"overall_preference", "individual_preference"} & first.keys())
    )


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    yield from each_row(path, tally, lambda line, row: _records(line, row, tally))


def _records(line: int, row: dict[str, Any], tally: Tally) -> Iterator[PromptRecord]:
    tally.read["pairs"] += 1
    meta = account(row, MEANING, tally)
    context = values.chat_or_text(row, "context")
    draft = Draft(
        line,
        values.messages(context, line, "context", tally),
        external_id=text_of(row, ("id",)),
        meta=meta,
    )
    sides = [
        draft.add(values.reply(values.chat_or_text(row, side), line, side, tally))
        for side in ("response1", "response2")
    ]
    for reviewer, score, reasoning in _scores(row, line, tally):
        tiers, strength = tiers_and_strength(sides[0], sides[1], score)
        draft.judge(reviewer, tiers, tally, strength=strength, rationale=reasoning)
    yield from draft.records(tally)


def _scores(row: dict[str, Any], line: int, tally: Tally) -> Iterator[tuple[str, float, str]]:
    preferences = values.structure(row, "individual_preference") or []
    if not isinstance(preferences, list) or not all(isinstance(item, dict) for item in preferences):
        raise BadInput('"individual_preference" must be a list of objects.', line)
    for count, item in enumerate(preferences, start=1):
        reasoning = text_of(item, ("reasoning",))
        yield f"{REVIEWER}-{count}", _score(item.get("score"), "score", line), reasoning
    if row.get("overall_preference") is None:
        return
    if preferences:
        tally.left_out[OVERALL] += 1
        return
    yield REVIEWER, _score(row["overall_preference"], "overall_preference", line), ""


def _score(value: Any, name: str, line: int) -> float:
    score = number(value)
    if score is None or abs(score) > STRONGEST:
        raise BadInput(f'"{name}" must be from -{STRONGEST} to {STRONGEST}; got {value!r}.', line)
    return score

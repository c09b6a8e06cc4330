"""HelpSteer3 preferences: a conversation, two responses, and how much better several people find one.

    {"context": [{"role", "content"}, …], "response1": …, "response2": …, "overall_preference": -2,
     "individual_preference": [{"score": -2, "reasoning": …}, …]}

A score goes from -3 (response 1 is much better) over 0 (about the same) to 3 (response 2 is much
better), and becomes the strength of the ranking. Each individual preference is a ranking by the
reviewer "helpsteer-1", "helpsteer-2", …, its reasoning the rationale. Where a row has none, the
overall preference is one, by "helpsteer".
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labeling.importing.formats.columns import values
from labeling.importing.formats.conversations import Draft, account, number, signed, text_of
from labeling.importing.records import BadInput, PromptRecord, Tally
from labeling.importing.source import each_row

REVIEWER = "helpsteer"
MEANING = {
    "context": "prompt", "response1": "response", "response2": "response", "id": "id",
    "overall_preference": "preference",
    "individual_preference": {"": "preference", "score": "preference", "reasoning": "rationale"},
}  # fmt: skip
STRONGEST = 3
OVERALL = "overall preferences next to individual ones, which are used instead"


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
        draft.place(values.reply(values.chat_or_text(row, side), line, side, tally))
        for side in ("response1", "response2")
    ]
    for reviewer, score, reasoning in _scores(row, line, tally):
        tiers, strength = signed(sides[0], sides[1], score)
        draft.judge(reviewer, tiers, tally, strength=strength, rationale=reasoning)
    yield from draft.records(tally)


def _scores(row: dict[str, Any], line: int, tally: Tally) -> Iterator[tuple[str, float, str]]:
    given = values.structure(row, "individual_preference") or []
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise BadInput('"individual_preference" must be a list of objects.', line)
    for count, item in enumerate(given, start=1):
        reasoning = text_of(item, ("reasoning",))
        yield f"{REVIEWER}-{count}", _score(item.get("score"), "score", line), reasoning
    if row.get("overall_preference") is None:
        return
    if given:
        tally.left_out[OVERALL] += 1
        return
    yield REVIEWER, _score(row["overall_preference"], "overall_preference", line), ""


def _score(value: Any, name: str, line: int) -> float:
    score = number(value)
    if score is None or abs(score) > STRONGEST:
        raise BadInput(f'"{name}" goes from -{STRONGEST} to {STRONGEST}; got {value!r}.', line)
    return score

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

from labeling.importers.conversations import (
    Draft,
    account,
    as_messages,
    as_reply,
    from_json,
    number,
    signed,
    text_of,
)
from labeling.importers.records import BadInput, PromptRecord, Tally
from labeling.importers.source import objects

REVIEWER = "helpsteer"
MEANING = {
    "context": "prompt", "response1": "response", "response2": "response", "id": "id",
    "overall_preference": "preference", "individual_preference": "preference",
}  # fmt: skip
OF_ONE = {"score": "preference", "reasoning": "rationale"}
STRONGEST = 3


def recognises(first: Any) -> bool:
    return (
        isinstance(first, dict)
        and {"context", "response1", "response2"} <= first.keys()
        and bool({"overall_preference", "individual_preference"} & first.keys())
    )


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    for line, row in objects(path):
        tally.read["pairs"] += 1
        draft = Draft(
            line,
            as_messages(row.get("context"), line, "context"),
            external_id=text_of(row, ("id",)),
            meta=account(row, MEANING, tally),
        )
        sides = [
            draft.place(as_reply(row.get(side), line, side)) for side in ("response1", "response2")
        ]
        for reviewer, score, reasoning in _scores(row, line, tally):
            tiers, strength = signed(sides[0], sides[1], score)
            draft.judge(reviewer, tiers, tally, strength=strength, rationale=reasoning)
        yield from draft.records(tally)


def _scores(row: dict[str, Any], line: int, tally: Tally) -> Iterator[tuple[str, float, str]]:
    said = from_json(row.get("individual_preference")) or []
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise BadInput('"individual_preference" must be a list of objects.', line)
    for place, one in enumerate(said, start=1):
        tally.columns.add(one, OF_ONE, prefix="individual_preference[].")
        reasoning = text_of(one, ("reasoning",))
        yield f"{REVIEWER}-{place}", _score(one.get("score"), "score", line), reasoning
    if not said and row.get("overall_preference") is not None:
        yield REVIEWER, _score(row["overall_preference"], "overall_preference", line), ""


def _score(value: Any, name: str, line: int) -> float:
    score = number(value)
    if score is None or abs(score) > STRONGEST:
        raise BadInput(f'"{name}" goes from -{STRONGEST} to {STRONGEST}; got {value!r}.', line)
    return score

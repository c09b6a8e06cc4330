"""The PandaLM test set: a JSON array of pairs, each judged by several annotators.

Pairs with the same instruction and input share a prompt, which has one response for each model and
text. Each pair is a task with a ranking by each annotator: 1 or 2 is the better response, and 0 is a
tie. The pairs of a prompt are separate tasks, because an annotator's judgments need not be transitive,
and one ranking could then not express them. A snapshot joins the tasks of a prompt into one group that
counts the same wins.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labeling.importing.files.source import each_row
from labeling.importing.formats.conversations import number
from labeling.importing.records import (
    BadInput,
    PromptRecord,
    RankingRecord,
    ResponseRecord,
    Tally,
    TaskRecord,
)

ANNOTATOR = re.compile(r"annotator\d+")
MEANING = {
    "instruction": "prompt", "input": "prompt", "response1": "response", "response2": "response",
    "cmp_key": "model", "motivation_app": "metadata",
}  # fmt: skip
OTHER_META = "pairs whose metadata differs from that of the first pair of their prompt"


def recognises(first: Any) -> bool:
    return (
        isinstance(first, dict)
        and {"instruction", "response1", "response2"} <= first.keys()
        and any(map(ANNOTATOR.fullmatch, first))
    )


@dataclass
class PromptPairs:
    """A prompt whose pairs are being collected from the file."""

    line: int
    messages: list[dict[str, str]]
    meta: dict[str, Any]
    responses: dict[ResponseRecord, int] = field(default_factory=dict)
    tasks: list[TaskRecord] = field(default_factory=list)

    def index_of(self, response: ResponseRecord) -> int:
        return self.responses.setdefault(response, len(self.responses))


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    prompts: dict[tuple[str, str], PromptPairs] = {}

    def add(line: int, pair: dict[str, Any]) -> tuple[()]:
        _add(prompts, line, pair, tally)
        return ()

    list(each_row(path, tally, add))
    for prompt in prompts.values():
        yield PromptRecord(
            line=prompt.line,
            messages=prompt.messages,
            responses=list(prompt.responses),
            tasks=prompt.tasks,
            meta=prompt.meta,
        )


def _add(
    prompts: dict[tuple[str, str], PromptPairs], line: int, pair: dict[str, Any], tally: Tally
) -> None:
    annotators = dict.fromkeys(filter(ANNOTATOR.fullmatch, pair), "preference")
    tally.columns.add(pair, {**MEANING, **annotators})
    instruction, context = _text(pair, "instruction", line, tally), _input(pair, line, tally)
    texts = [_text(pair, name, line, tally) for name in ("response1", "response2")]
    models = _models(pair, line)
    tally.read["pairs"] += 1
    if not all(text.strip() for text in texts):
        tally.left_out["pairs with an empty response"] += 1
        return
    content = f"{instruction}\n\n{context}" if context else instruction
    prompt = prompts.setdefault(
        (instruction, context),
        PromptPairs(line, [{"role": "user", "content": content}], _meta(pair)),
    )
    tally.left_out[OTHER_META] += prompt.meta != _meta(pair)
    first, second = (
        prompt.index_of(ResponseRecord(text, model))
        for text, model in zip(texts, models, strict=True)
    )
    if first == second:
        tally.left_out["pairs of a response with itself"] += 1
        return
    judgments = list(_judgments(pair, first, second, line, tally))
    tally.read["judgments"] += len(judgments)
    tally.read["ties among them"] += sum(len(judgment.tiers) == 1 for judgment in judgments)
    prompt.tasks.append(TaskRecord(line, [first, second], judgments))


def _text(pair: dict[str, Any], name: str, line: int, tally: Tally) -> str:
    """Return a text, also from a boolean: the published file contains True and False as answers."""
    value = pair.get(name)
    if isinstance(value, bool | int | float):
        tally.changed["numbers, true and false in place of a text, kept as text"] += 1
        return str(value)
    if not isinstance(value, str):
        raise BadInput(f'"{name}" must be text.', line)
    return value


def _input(pair: dict[str, Any], line: int, tally: Tally) -> str:
    return _text(pair, "input", line, tally) if pair.get("input") is not None else ""


def _models(pair: dict[str, Any], line: int) -> list[str]:
    """Return the names of both models, which `cmp_key` joins with an underscore."""
    names = str(pair.get("cmp_key") or "response1_response2").split("_")
    if len(names) % 2:
        raise BadInput(f'"cmp_key" must name two models: {"_".join(names)!r} does not.', line)
    half = len(names) // 2
    return ["_".join(names[:half]), "_".join(names[half:])]


def _judgments(
    pair: dict[str, Any], first: int, second: int, line: int, tally: Tally
) -> Iterator[RankingRecord]:
    orders = {1: [[first], [second]], 2: [[second], [first]], 0: [[first, second]]}
    for name in sorted(filter(ANNOTATOR.fullmatch, pair), key=lambda name: int(name[9:])):
        if (value := pair[name]) in (None, ""):
            tally.left_out["votes that are empty"] += 1
            continue
        vote = number(value)
        if vote is None or vote not in orders:
            raise BadInput(f"{name} must be 1, 2, or 0 for a tie; got {value!r}.", line)
        yield RankingRecord(f"pandalm-{name}", orders[int(vote)])


def _meta(pair: dict[str, Any]) -> dict[str, Any]:
    return {"application": pair["motivation_app"]} if pair.get("motivation_app") else {}

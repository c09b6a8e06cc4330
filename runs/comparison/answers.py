"""Answers of several runs to the same prompts: to the sample prompts of training, and those of kinds."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runs import live
from runs.kinds import Answer
from runs.models import Run, RunEvent


@dataclass(frozen=True)
class Row:
    """A prompt, and the answer of each run to it, None without one."""

    prompt: Answer
    answers: list[Answer | None]


def rows(runs: Sequence[Run]) -> list[Row]:
    """Return the prompts that runs have answered, those with answers of most runs first.

    Among prompts with equally many answers, the sample prompts of training come first. Costs a query,
    and the queries of the kinds.
    """
    samples, others = samples_of(runs), answers_of(runs)
    by_run = {run.pk: {**samples[run.pk], **others[run.pk]} for run in runs}
    counts = Counter(prompt for answers in by_run.values() for prompt in answers)
    rows = []
    for prompt in sorted(counts, key=lambda prompt: -counts[prompt]):
        answers = [by_run[run.pk].get(prompt) for run in runs]
        first = next(answer for answer in answers if answer)
        rows.append(Row(first, answers))
    return rows


def answers_of(runs: Sequence[Run]) -> dict[int, dict[str, Answer]]:
    """Return the answers that the kinds read, by run and prompt.

    Runs whose kinds share a function cost its queries once.
    """
    readers: dict[Callable[[list[Run]], dict[int, list[Answer]]], list[Run]] = {}
    for run in runs:
        if kind := live.kind_of(run):
            readers.setdefault(kind.answers, []).append(run)
    by_run: dict[int, dict[str, Answer]] = {run.pk: {} for run in runs}
    for read, group in readers.items():
        for pk, answers in read(group).items():
            by_run[pk] = {answer.prompt: answer for answer in answers}
    return by_run


def samples_of(runs: Sequence[Run]) -> dict[int, dict[str, Answer]]:
    """Return the newest answers to the sample prompts of training by run and prompt, in one query."""
    events = RunEvent.objects.filter(run__in=[run.pk for run in runs], event="samples")
    newest = events.order_by("run", "-number").distinct("run").values_list("run", "data")
    by_run: dict[int, dict[str, Answer]] = {run.pk: {} for run in runs}
    for run, data in newest:
        rows = data.get("answers")
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict):
                answer = _sample(row, data.get("step"))
                by_run[run][answer.prompt] = answer
    return by_run


def _sample(row: dict[str, Any], step: Any) -> Answer:
    cut_off = ", cut off" if row.get("truncated") is True else ""
    return Answer(
        prompt=f"sample {row.get('prompt_id', '')}",
        messages=[("user", str(row.get("prompt", "")))],
        text=str(row.get("answer", "")),
        note=f"step {step}{cut_off}",
    )

"""The answers of both models to each prompt, for a page that shows them next to each other."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import Count
from django.utils.safestring import SafeString

from finetune.models import Evaluation, EvaluationItem
from labeling.core.text import render

NO_VERDICT = "none"
VERDICTS = {"won": 1.0, "lost": 0.0, "tied": 0.5}


@dataclass(frozen=True)
class AnswerList:
    """The items of an evaluation, all or those with one verdict, and the number of each verdict."""

    verdict: str
    items: Any
    counts: list[tuple[str, str, int]]


@dataclass(frozen=True)
class Pair:
    item: EvaluationItem
    outcome: str
    messages: list[tuple[str, SafeString]]
    baseline: SafeString
    candidate: SafeString
    baseline_words: int
    candidate_words: int


def answers_of(evaluation: Evaluation, verdict: str) -> AnswerList:
    """Return the answers to prompts that are not withdrawn.

    One query reads the counts. `items` is a QuerySet that has not been evaluated.
    """
    in_use = evaluation.items.filter(prompt__withdrawn_at=None)
    counted = in_use.order_by().values("verdict").annotate(count=Count("pk"))
    by_verdict = {row["verdict"]: row["count"] for row in counted}
    counts = [("", "All", sum(by_verdict.values()))]
    counts += [
        (name, name.capitalize(), by_verdict.get(value, 0)) for name, value in VERDICTS.items()
    ]
    if by_verdict.get(None):
        counts.append((NO_VERDICT, "No verdict", by_verdict[None]))
    items = in_use.select_related("prompt").order_by("id")
    if verdict == NO_VERDICT:
        return AnswerList(verdict, items.filter(verdict=None), counts)
    if verdict in VERDICTS:
        return AnswerList(verdict, items.filter(verdict=VERDICTS[verdict]), counts)
    return AnswerList("", items, counts)


def rendered(items: Iterable[EvaluationItem]) -> list[Pair]:
    names: dict[float | None, str] = {value: name for name, value in VERDICTS.items()}
    return [
        Pair(
            item=item,
            outcome=names.get(item.verdict, NO_VERDICT),
            messages=[(m["role"], render(m["content"])) for m in item.prompt.messages],
            baseline=render(item.baseline_text),
            candidate=render(item.candidate_text),
            baseline_words=len(item.baseline_text.split()),
            candidate_words=len(item.candidate_text.split()),
        )
        for item in items
    ]

"""The promoted models of a project, one after the other, and how much better each of them is.

A generation is a promotion. Its figures are those of its certificate, so they are the figures on which
the promotion was decided, and they never change.

Each win rate is over the model that was replaced. The win rate over the first model, the base, is
estimated by chaining them with the Bradley-Terry model: log-odds add up. This assumes that the
preferences are transitive. Bounds are chained in the same way, and hold together with a probability of
at least 1 - Σα, because the confidence sequence of each generation holds with 1 - α (Bonferroni).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np

from finetune.certificate.recomputing import SAME_WEIGHTS, sources_of_win
from finetune.certificate.verdicts import SOURCES
from finetune.models import Certificate
from finetune.statistics.evidence import PRECISION
from finetune.statistics.means import mean_figure, sums_by_prompt
from labeling.models import Project

MOST_REMEMBERED = 1000
"""The certificates whose figures a process remembers. A certificate never changes."""


@dataclass(frozen=True)
class Interval:
    """A value with its bounds, which hold with a probability of at least 1 - `alpha`."""

    value: float
    low: float
    high: float
    alpha: float = 0.05


EVEN = Interval(0.5, 0.5, 0.5, 0.0)
"""The win rate of a model over itself."""


@dataclass(frozen=True)
class Promotion:
    """The facts of a certificate about a promoted model and the model before it.

    `before` is the model that was replaced, or the base for the first promotion. `win_rate` is over this
    model, by `source`, which is "people" or "judge". It is None if no evaluation against it had verdicts.
    `score` and `score_before` are the mean scores of both models by the judge, with 95% intervals, over
    the held-out prompts of the evaluation. They are None if the judge gave no scores.
    """

    model: int
    name: str
    before: int
    name_before: str
    evaluation: int | None = None
    source: str = ""
    win_rate: Interval | None = None
    judge: str = ""
    score: Interval | None = None
    score_before: Interval | None = None


@dataclass(frozen=True)
class Generation:
    """A promotion with the estimated win rate over the first model, or None if that is unknown."""

    certificate: int
    number: int
    promoted_at: datetime
    promotion: Promotion
    over_first: Interval | None = None


def generations_of(project: Project) -> list[Generation]:
    """Return the promotions of a project, the first one first.

    Takes a query, and another for each certificate that this process has not read before.
    """
    rows = Certificate.objects.filter(project=project).order_by("number")
    return chained(
        Generation(pk, number, issued_at, promotion_of(pk, sha256))
        for pk, number, issued_at, sha256 in rows.values_list("pk", "number", "issued_at", "sha256")
    )


# --- one certificate -----------------------------------------------------------------------------


@lru_cache(maxsize=MOST_REMEMBERED)
def promotion_of(certificate: int, sha256: str) -> Promotion:
    """Return the facts of the certificate with this id and hash. The first time, this takes a query."""
    text = Certificate.objects.values_list("text", flat=True).get(pk=certificate, sha256=sha256)
    return read_promotion(json.loads(text)["content"])


def read_promotion(content: dict[str, Any]) -> Promotion:
    """Return the facts of the content of a certificate."""
    candidate, promotion = content["candidate"], content["promotion"]
    evaluation, source = _deciding(content)
    before = promotion["replaced"] or (evaluation or {}).get("baseline")
    before = before or (candidate["made_from"] or [candidate])[-1]
    facts = Promotion(candidate["model"], candidate["name"], before["model"], before["name"])
    if promotion["basis"] == SAME_WEIGHTS:
        return replace(facts, win_rate=EVEN)
    if evaluation is None:
        return facts
    evidence, rows = evaluation[source]["evidence"], list(_scored(evaluation))
    low, high = evidence["interval"]
    return replace(
        facts,
        evaluation=evaluation["evaluation"],
        source=source,
        win_rate=Interval(evidence["win_rate"], low, high, evidence["alpha"]),
        judge=evaluation["registration"]["judge"],
        score=_mean(rows, "candidate_score"),
        score_before=_mean(rows, "baseline_score"),
    )


def _deciding(content: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the evaluation on which the promotion was decided, and the source of its verdicts.

    It is the newest one that proves a win as the project's policy demands, by people if possible. Without
    one, because somebody overrode the doubts, it is the newest one with verdicts of people, or of a judge.
    """
    promotion = content["promotion"]
    policy, regression_set = promotion["policy"], promotion["regression_set"]
    rows = [
        (evaluation, source)
        for source in SOURCES
        for evaluation in reversed(content["evaluations"])
        if evaluation["counts"] and (evaluation[source]["evidence"] or {}).get("path")
    ]
    wins = [
        (evaluation, source)
        for evaluation, source in rows
        if source in sources_of_win(evaluation, policy, regression_set=regression_set)
    ]
    return next(iter(wins + rows), (None, ""))


def _scored(evaluation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in evaluation["judge"]["verdicts"]:
        if row["candidate_score"] is not None and row["baseline_score"] is not None:
            yield row


def _mean(rows: list[dict[str, Any]], side: str) -> Interval | None:
    """Return the mean score of a side with its 95% interval, or None for fewer than two prompts."""
    values = np.array([row[side] for row in rows], dtype=float)
    figure = mean_figure(
        *sums_by_prompt([row["prompt"] for row in rows], values), 0, missing="No scores."
    )
    if figure["value"] is None or figure["interval"] is None:
        return None
    return Interval(figure["value"], *figure["interval"])


# --- all promotions of a project -----------------------------------------------------------------


def chained(generations: Iterable[Generation]) -> list[Generation]:
    """Return the generations with their estimated win rates over the first model.

    The first model is the one before the first promotion. A model that is promoted again keeps its win
    rate. The win rate of a model is unknown if no evaluation links it to a model whose win rate is known.
    """
    known: dict[int, Interval] = {}
    result = []
    for generation in generations:
        step = generation.promotion
        if not known:
            known[step.before] = EVEN
        if step.model not in known and step.before in known and step.win_rate:
            known[step.model] = chain(known[step.before], step.win_rate)
        result.append(replace(generation, over_first=known.get(step.model)))
    return result


def chain(first: Interval, second: Interval) -> Interval:
    """Return the win rate of C over A from those of B over A and of C over B.

    By the Bradley-Terry model, the odds of C over A are the product of the other two odds.
    """
    return Interval(
        _share(_odds(first.value) * _odds(second.value)),
        _share(_odds(first.low) * _odds(second.low)),
        _share(_odds(first.high) * _odds(second.high)),
        first.alpha + second.alpha,
    )


def _odds(share: float) -> float:
    share = min(1 - PRECISION, max(PRECISION, share))
    return share / (1 - share)


def _share(odds: float) -> float:
    return odds / (1 + odds)

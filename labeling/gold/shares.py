"""The share of right answers to gold, for each gold task and for each reviewer, with intervals."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count

from accounts.models import User
from labeling.gold import constraints
from labeling.models import Gold, Project, Ranking, Skip
from labeling.statistics.intervals import wilson

MAX_ANSWERS = 5000
SUSPECT_FROM = 3
"""Minimum number of answers from which a gold task is suspect if most of them are wrong."""


@dataclass
class Share:
    right: int = 0
    asked: int = 0

    def add(self, right: bool) -> None:
        self.right += right
        self.asked += 1

    @property
    def percent(self) -> int:
        return round(100 * self.right / self.asked) if self.asked else 0

    @property
    def interval(self) -> tuple[int, int]:
        """Return the bounds of the 95% interval as whole percentages."""
        low, high = self.bounds
        return round(100 * low), round(100 * high)

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the bounds of the 95% interval as shares from 0 to 1."""
        return wilson(self.right / self.asked if self.asked else 0.0, self.asked)

    @property
    def suspect(self) -> bool:
        return self.asked >= SUSPECT_FROM and 2 * self.right < self.asked


@dataclass
class Shares:
    by_gold: dict[int, Share] = field(default_factory=lambda: defaultdict(Share))
    by_reviewer: dict[User, Share] = field(default_factory=lambda: defaultdict(Share))
    skips: dict[int, int] = field(default_factory=dict)
    """Number of skips, keyed by the id of the gold."""
    capped: bool = False


def shares(project: Project) -> Shares:
    """Return the shares over the newest MAX_ANSWERS current answers to gold. Costs four queries.

    Reviewers' shares only include active checks: retired gold may have been wrong, and reviewers are
    still learning in training and qualification.
    """
    gold_by_task = {gold.task_id: gold for gold in Gold.objects.filter(project=project)}
    result = Shares(skips=_skips(gold_by_task.values()))
    answers = list(_answers(project))
    people = User.objects.in_bulk({reviewer for _task, reviewer, *_content in answers})
    for task, reviewer, tiers, cut in answers:
        gold = gold_by_task[task]
        right = constraints.meets(tiers, cut, gold.constraints)
        result.by_gold[gold.pk].add(right)
        if gold.purpose == Gold.Purpose.CHECK and gold.retired_at is None:
            result.by_reviewer[people[reviewer]].add(right)
    result.capped = len(answers) == MAX_ANSWERS
    return result


def share_of(gold: Gold) -> Share:
    """Return the share of right answers among the newest MAX_ANSWERS answers to one gold task."""
    share = Share()
    answers = gold.task.rankings.filter(superseded_at=None).order_by("-pk")
    for tiers, cut in answers.values_list("tiers", "cut")[:MAX_ANSWERS]:
        share.add(constraints.meets(tiers, cut, gold.constraints))
    return share


def _answers(project: Project) -> Iterable[Any]:
    """Return (task, reviewer, tiers, cut) of current answers, newest first.

    Tuples are faster than model instances.
    """
    answers = Ranking.objects.filter(
        task__gold__project=project, task__inactive=False, superseded_at=None
    )
    columns = answers.order_by("-pk").values_list("task", "reviewer", "tiers", "cut")
    return columns[:MAX_ANSWERS]


def _skips(gold: Iterable[Gold]) -> dict[int, int]:
    by_task = {item.task_id: item.pk for item in gold}
    counts = Skip.objects.filter(task__in=by_task).values_list("task").annotate(Count("pk"))
    return {by_task[task_id]: count for task_id, count in counts}

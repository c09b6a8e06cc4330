"""How often gold is answered right: by gold task and by reviewer, with intervals."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count

from accounts.models import User
from labeling.gold import constraints
from labeling.models import Gold, Project, Ranking, Skip
from labeling.statistics.intervals import wilson

ANSWERS_AT_MOST = 5000
SUSPECT_FROM = 3
"""From so many answers on, a gold task that most people get wrong is suspect itself."""


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
        """Low and high, in percent."""
        low, high = self.bounds
        return round(100 * low), round(100 * high)

    @property
    def bounds(self) -> tuple[float, float]:
        """The same as shares."""
        return wilson(self.right / self.asked if self.asked else 0.0, self.asked)

    @property
    def suspect(self) -> bool:
        return self.asked >= SUSPECT_FROM and 2 * self.right < self.asked


@dataclass
class Shares:
    by_gold: dict[int, Share] = field(default_factory=lambda: defaultdict(Share))
    by_reviewer: dict[User, Share] = field(default_factory=lambda: defaultdict(Share))
    skips: dict[int, int] = field(default_factory=dict)
    """By gold."""
    capped: bool = False


def shares(project: Project) -> Shares:
    """Over the newest ANSWERS_AT_MOST current answers to gold. Four queries.

    Reviewers are measured by checks in use alone: what was retired may have been wrong, and in
    training and qualification they were still learning.
    """
    known = {one.task_id: one for one in Gold.objects.filter(project=project)}
    found = Shares(skips=_skips(known.values()))
    answers = list(_answers(project))
    people = User.objects.in_bulk({reviewer for _task, reviewer, *_said in answers})
    for task, reviewer, tiers, cut in answers:
        one = known[task]
        right = constraints.meets(tiers, cut, one.constraints)
        found.by_gold[one.pk].add(right)
        if one.purpose == Gold.Purpose.CHECK and one.retired_at is None:
            found.by_reviewer[people[reviewer]].add(right)
    found.capped = len(answers) == ANSWERS_AT_MOST
    return found


def share_of(one: Gold) -> Share:
    """Of one gold task, over its newest ANSWERS_AT_MOST answers. A query."""
    share = Share()
    answers = one.task.rankings.filter(superseded_at=None).order_by("-pk")
    for tiers, cut in answers.values_list("tiers", "cut")[:ANSWERS_AT_MOST]:
        share.add(constraints.meets(tiers, cut, one.constraints))
    return share


def _answers(project: Project) -> Iterable[Any]:
    """(task, reviewer, tiers, cut), newest first; no rows of a model, for the speed."""
    answers = Ranking.objects.filter(
        task__gold__project=project, task__out_of_use=False, superseded_at=None
    )
    columns = answers.order_by("-pk").values_list("task", "reviewer", "tiers", "cut")
    return columns[:ANSWERS_AT_MOST]


def _skips(known: Iterable[Gold]) -> dict[int, int]:
    by_task = {one.task_id: one.pk for one in known}
    counted = Skip.objects.filter(task__in=by_task).values_list("task").annotate(Count("pk"))
    return {by_task[task_id]: count for task_id, count in counted}

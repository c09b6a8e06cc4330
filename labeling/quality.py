"""Where reviewers of a project agree, and the tasks on which they do not."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from labeling.agreement import Agreement, pair_agreement, pair_outcomes, strict_agreement
from labeling.models import Project, Ranking, Task

TASKS_AT_MOST = 1000
TASKS_FOR_A_GLANCE = 200
RANKINGS_A_TASK = 3


@dataclass(frozen=True)
class Dispute:
    """A task and how far its rankings are apart: 0 for the same order, 1 for the reverse."""

    task_id: int
    distance: float
    rankings: Sequence[Ranking]

    @property
    def percent(self) -> int:
        return round(100 * self.distance)


@dataclass(frozen=True)
class Quality:
    tasks: int
    capped: bool
    agreement: Agreement
    strict: Agreement
    disputes: Sequence[Dispute]


def quality_of(project: Project, *, tasks_at_most: int = TASKS_AT_MOST) -> Quality:
    """Over the tasks ranked last, where they have two rankings. Two queries, bounded like the sums."""
    groups, capped = _groups(project, tasks_at_most)
    tiers = [[ranking.tiers for ranking in group] for group in groups]
    prompts = [group[0].task.prompt_id for group in groups]
    disputes = [
        Dispute(group[0].task_id, distance, group)
        for group in groups
        if (distance := _distance(group)) > 0
    ]
    return Quality(
        tasks=len(groups),
        capped=capped,
        agreement=pair_agreement(tiers, clusters=prompts),
        strict=strict_agreement(tiers, clusters=prompts),
        disputes=sorted(disputes, key=lambda dispute: -dispute.distance),
    )


def _groups(project: Project, tasks_at_most: int) -> tuple[list[list[Ranking]], bool]:
    """The rankings of each task, and whether there are more tasks than were looked at."""
    current = Ranking.objects.filter(superseded_at=None).exclude(task__kind=Task.Kind.GOLD)
    newest = current.filter(task__project=project).order_by("-id")
    recent = dict.fromkeys(newest.values_list("task", flat=True)[: RANKINGS_A_TASK * tasks_at_most])
    looked_at = list(recent)[:tasks_at_most]
    groups: dict[int, list[Ranking]] = defaultdict(list)
    for ranking in current.filter(task__in=looked_at).select_related("task").order_by("id"):
        groups[ranking.task_id].append(ranking)
    several = [groups[task] for task in looked_at if len(groups[task]) > 1]
    return several, len(recent) > tasks_at_most


def _distance(group: Sequence[Ranking]) -> float:
    """Mean over pairs of responses and of reviewers: a tie against an order counts half."""
    outcomes = [pair_outcomes(a.tiers, b.tiers) for a, b in combinations(group, 2)]
    pairs = np.concatenate(outcomes)
    return float(np.abs(pairs[:, 0] - pairs[:, 1]).mean() / 2) if len(pairs) else 0.0

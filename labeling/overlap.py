"""How many rankings a task gets: always the same number, or more only where reviewers disagree.

With sequential overlap a task begins with `rankings_per_task` slots. Each ranking that comes in is
read for what it says about every pair of responses; while a pair or the best response is not
clear, and `rankings_at_most` is not reached, the task gets one more slot.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from django.db import connection
from django.db.models import F

from labeling import queue
from labeling.agreement import Tiers
from labeling.models import Adjudication, Project, Ranking, Slot, Task, TaskResponse

ACCURACY = 0.85
"""How often a reviewer is taken to say of a pair what is true of it, until more is known."""

COUNTED_AT_MOST = 10_000

Posterior = np.ndarray  # (pairs, 3) float64; the first of the pair is better, they tie, it is worse


def posterior_of_pairs(
    rankings: Sequence[Tiers],
    response_ids: Collection[int],
    *,
    accuracies: Sequence[float] | None = None,
    ties: bool = True,
) -> Posterior:
    """What is probably true of each pair, in the order of `combinations` of the sorted ids.

    The one-coin model of Dawid and Skene (1979) over three sides, better, tied and worse: before
    any ranking each is as probable as the others (a Dirichlet prior's mean, 1/3 each); a reviewer
    says the true side with probability `a` and either other with (1 − a)/2, so that
    P(side | rankings) ∝ Π a or (1 − a)/2. With `ties` off there are two sides, and what ties
    says nothing. `accuracies` holds one `a` a ranking; without it all have ACCURACY. A ranking
    says nothing of a pair that it did not place.
    """
    pairs = list(combinations(sorted(response_ids), 2))
    sides = 3 if ties else 2
    log_odds = np.zeros((len(pairs), 3))
    for tiers, accuracy in zip(rankings, accuracies or [ACCURACY] * len(rankings), strict=True):
        weight = np.log(accuracy) - np.log((1 - accuracy) / (sides - 1))
        place = {response: tier for tier, tied in enumerate(tiers) for response in tied}
        for pair, (a, b) in enumerate(pairs):
            if a in place and b in place:
                log_odds[pair, 1 + int(np.sign(place[a] - place[b]))] += weight
    if not ties:
        log_odds[:, 1] = -np.inf
    odds = np.exp(log_odds - log_odds.max(axis=1, keepdims=True, initial=-np.inf))
    return odds / odds.sum(axis=1, keepdims=True)


def best_is(posterior: Posterior, count: int) -> float:
    """How probable it is that the best of `count` responses are those the posterior says.

    Each response is unbeaten with the product over its pairs of P(better or tied), as if pairs
    were independent; the products are made to sum to 1 over the responses, as one of them must be
    unbeaten. The best are those that no pair says are worse.
    """
    unbeaten = np.ones(count)
    beaten = np.zeros(count, dtype=bool)
    for (a, b), sides in zip(combinations(range(count), 2), posterior, strict=True):
        unbeaten[a] *= sides[0] + sides[1]
        unbeaten[b] *= sides[2] + sides[1]
        side = int(sides.argmax())
        beaten[a] |= side == 2
        beaten[b] |= side == 0
    return float(unbeaten[~beaten].sum() / unbeaten.sum())


def is_clear(
    rankings: Sequence[Tiers],
    response_ids: Collection[int],
    *,
    certainty: float,
    accuracies: Sequence[float] | None = None,
    ties: bool = True,
) -> bool:
    """Whether the side of every pair, and the best response, have at least this probability."""
    posterior = posterior_of_pairs(rankings, response_ids, accuracies=accuracies, ties=ties)
    sure = bool((posterior.max(axis=1) >= certainty).all())
    return sure and best_is(posterior, len(response_ids)) >= certainty


# --- a task gets one more, or one less -----------------------------------------------------------


def after_ranking(task: Task) -> Slot | None:
    """The slot that was added, if the task is unclear; None with fixed overlap, at no cost.

    Call it in the transaction that wrote the ranking and holds the locks of the task's slots: they
    let one ranking of a task be written at a time. Four queries, and a few when a slot is added.
    """
    project = task.project
    if project.overlap != Project.Overlap.SEQUENTIAL or task.kind != Task.Kind.RANKING:
        return None
    slots = list(Slot.objects.filter(task=task).order_by("number"))
    if _is_clear(task, project):
        _withdraw(task, slots)
        return None
    unfilled = any(slot.ranking_id is None for slot in slots)
    if unfilled or len(slots) >= project.rankings_at_most:
        return None
    return queue.add_slot(task=task)


def settle(task: Task) -> None:
    """Ask no more of a task whose outcome a lead has decided. The caller holds its slots' locks."""
    _withdraw(task, list(Slot.objects.filter(task=task).order_by("number")))


def _is_clear(task: Task, project: Project) -> bool:
    if Adjudication.objects.filter(task=task).exists():
        return True
    current = Ranking.objects.filter(task=task, superseded_at=None)
    return is_clear(
        list(current.values_list("tiers", flat=True)),
        list(TaskResponse.objects.filter(task=task).values_list("response_id", flat=True)),
        certainty=project.certainty,
        ties=project.allow_ties,
    )


def _withdraw(task: Task, slots: Sequence[Slot]) -> None:
    """Drop as many as were added here and nobody has begun: they lie above the task's priority."""
    added = sum(slot.priority > task.priority for slot in slots)
    free = [slot.pk for slot in slots if slot.reviewer_id is None and slot.draft_by_id is None]
    if unused := free[::-1][:added]:
        Task.objects.filter(pk=task.pk).update(rankings_wanted=F("rankings_wanted") - len(unused))
        Slot.objects.filter(pk__in=unused).delete()


# --- what it saved -------------------------------------------------------------------------------

_SAVED = """
SELECT count(*), coalesce(sum(rankings), 0) FROM (
    SELECT task_id, count(*) AS rankings FROM labeling_slot
    WHERE task_id IN (
        SELECT newest.task_id FROM (
            SELECT ranking.task_id FROM labeling_ranking ranking
            JOIN labeling_task task ON task.id = ranking.task_id
            WHERE task.project_id = %(project)s AND task.kind = 'ranking'
            ORDER BY ranking.id DESC LIMIT %(limit)s
        ) newest
    )
    GROUP BY task_id HAVING bool_and(ranking_id IS NOT NULL)
) finished
"""


@dataclass(frozen=True)
class Saved:
    """Finished tasks among those ranked last, and how many rankings they took."""

    tasks: int
    rankings: int
    at_most: int
    capped: bool

    @property
    def fixed(self) -> int:
        """What asking everyone `at_most` times would have taken."""
        return self.tasks * self.at_most

    @property
    def saved(self) -> int:
        return max(0, self.fixed - self.rankings)

    @property
    def share(self) -> float | None:
        return self.saved / self.fixed if self.fixed else None


def saved(project: Project, *, limit: int = COUNTED_AT_MOST) -> Saved:
    """Over the tasks of the newest `limit` rankings. One query, bounded by the limit."""
    with connection.cursor() as cursor:
        cursor.execute(_SAVED, {"project": project.pk, "limit": limit})
        tasks, rankings = cursor.fetchone()
    return Saved(tasks, int(rankings), project.rankings_at_most, rankings >= limit)

"""The number of rankings per task: fixed, or increased only where reviewers disagree.

With sequential overlap, a task starts with `rankings_per_task` slots. Once all are filled, the
probability of each order of each pair of responses is computed from the rankings. While the order of a
pair or the best response is unclear, the task gets another slot, up to `rankings_at_most`.

A task can be unclear without being disputed (labeling.statistics.disputes). In a dispute, reviewers
disagree more than their usual noise explains, while noise alone can leave an order unclear. For example,
two opposite rankings of two responses are not a dispute, but a third ranking is needed to know the order.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from django.db import connection

from labeling.models import Adjudication, Project, Ranking, Slot, Task
from labeling.quality.measures import reliabilities_of
from labeling.queue import slots as queue
from labeling.queue.withdrawals import PARKED, responses_to_rank
from labeling.statistics.agreement import Tiers
from labeling.statistics.reliability import Reliabilities, log_confusion, log_truth

PRIOR_RELIABILITIES = Reliabilities()
"""Reliabilities of typical reviewers, assumed until the project has enough rankings."""

MAX_COUNT = 5_000
SHARED_TASKS_NEEDED = 30

Sides = np.ndarray  # (pairs, 3) float64: probabilities that the first is better, tied, worse


def sides_of_pairs(
    rankings: Sequence[Tiers],
    response_ids: Collection[int],
    reliabilities: Reliabilities = PRIOR_RELIABILITIES,
) -> Sides:
    """Return the probabilities of each pair's sides. Pairs are `combinations` of the sorted ids.

    Uses the model of Dawid and Skene (1979), as in labeling.statistics.reliability, with one confusion
    matrix for all reviewers, `reliabilities.typical`: P(side | rankings) ∝ P(side) Π P(judgment | side).
    The prior P(tied) is `reliabilities.tied`. All reviewers have the same weight, as in a snapshot, so
    that no single reviewer decides when a task is clear. A ranking only affects the pairs it contains.
    """
    pairs = list(combinations(sorted(response_ids), 2))
    typical = reliabilities.typical
    reversed_ = max(0.0, 1 - typical.right - typical.tie)
    confusion = np.array([typical.right, typical.tie, reversed_, typical.tie_of_tie])
    log_chances = log_confusion(confusion)  # (truth, judgment)
    logs = np.tile(log_truth(reliabilities.tied), (len(pairs), 1))
    for tiers in rankings:
        tier_of = {response: tier for tier, tied in enumerate(tiers) for response in tied}
        for pair, (a, b) in enumerate(pairs):
            if a in tier_of and b in tier_of:
                logs[pair] += log_chances[:, 1 + int(np.sign(tier_of[a] - tier_of[b]))]
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def probability_of_best(sides: Sides, count: int) -> float:
    """Return the probability that the best response is among those that probably lose no pair.

    The probability that a response is unbeaten is the product of P(better or tied) over its pairs, as if
    the pairs were independent. These products are normalised over all `count` responses, because at least
    one of them must be unbeaten.
    """
    unbeaten = np.ones(count)
    beaten = np.zeros(count, dtype=bool)
    for (a, b), chances in zip(combinations(range(count), 2), sides, strict=True):
        unbeaten[a] *= chances[0] + chances[1]
        unbeaten[b] *= chances[2] + chances[1]
        side = int(chances.argmax())
        beaten[a] |= side == 2
        beaten[b] |= side == 0
    return float(unbeaten[~beaten].sum() / unbeaten.sum())


def is_clear(
    rankings: Sequence[Tiers],
    response_ids: Collection[int],
    *,
    certainty: float,
    reliabilities: Reliabilities = PRIOR_RELIABILITIES,
) -> bool:
    """Return whether the order of every pair and the best response are certain enough.

    `certainty` is the lowest probability that is enough.
    """
    sides = sides_of_pairs(rankings, response_ids, reliabilities)
    sure = bool((sides.max(axis=1) >= certainty).all())
    return sure and probability_of_best(sides, len(response_ids)) >= certainty


def project_reliabilities(project: Project) -> Reliabilities:
    """Return the project's reliabilities from a cache, at most ten minutes old.

    With fewer than SHARED_TASKS_NEEDED tasks that have two rankings, return PRIOR_RELIABILITIES.
    """
    reliabilities = reliabilities_of(project)
    shared_tasks = sum(reliability.tasks for reliability in reliabilities.of.values())
    return reliabilities if shared_tasks >= 2 * SHARED_TASKS_NEEDED else PRIOR_RELIABILITIES


# --- adding and removing slots --------------------------------------------------------------------


def is_adaptive(task: Task) -> bool:
    """Return whether a ranking of the task can change its number of slots."""
    if task.inactive:
        return False
    return task.project.overlap == Project.Overlap.SEQUENTIAL and task.kind == Task.Kind.RANKING


def after_ranking(task: Task) -> Slot | None:
    """Add a slot to an unclear task and return it, or remove unused slots from a clear task.

    Call this in the transaction that wrote the ranking and locked the task's slots; the locks serialise
    the task's rankings. Costs no query with fixed overlap. Otherwise it costs one, and a few more when
    all slots are filled.
    """
    project = task.project
    if not is_adaptive(task):
        return None
    slots = list(Slot.objects.filter(task=task).order_by("number"))
    if any(slot.priority >= PARKED for slot in slots):
        return None  # the task was withdrawn after it was loaded
    complete = all(slot.ranking_id is not None for slot in slots)
    may_add = complete and len(slots) < project.rankings_at_most
    if not (may_add or _unused(task, slots)):
        if complete:
            _mark_stopped(task, project)
        return None
    if Adjudication.objects.filter(task=task).exists():
        _remove_unused(task, slots)
        return None
    if _is_clear(task, project):
        _remove_unused(task, slots)
        _mark_stopped(task, project)
        return None
    return queue.add_slot(task=task) if may_add else None


def remove_unused_slots(task: Task) -> None:
    """Remove the unused slots of a task that a lead has decided.

    The caller must have locked the task's slots.
    """
    _remove_unused(task, list(Slot.objects.filter(task=task).order_by("number")))


def _mark_stopped(task: Task, project: Project) -> None:
    """Record that sequential overlap stopped requesting rankings of the task."""
    unmarked = Task.objects.filter(pk=task.pk).exclude(stopped_below=project.rankings_at_most)
    unmarked.update(stopped_below=project.rankings_at_most)


def _is_clear(task: Task, project: Project) -> bool:
    current = Ranking.objects.filter(task=task, superseded_at=None)
    return is_clear(
        list(current.values_list("tiers", flat=True)),
        responses_to_rank(task),
        certainty=project.certainty,
        reliabilities=project_reliabilities(project),
    )


def _unused(task: Task, slots: Sequence[Slot]) -> list[int]:
    """Return the ids of slots that nobody has started, up to the number that sequential overlap added.

    Added slots have a higher priority than the task.
    """
    added = sum(slot.priority > task.priority for slot in slots)
    free = [slot.pk for slot in slots if slot.reviewer_id is None and slot.draft_by_id is None]
    return free[::-1][:added]


def _remove_unused(task: Task, slots: Sequence[Slot]) -> None:
    if unused := _unused(task, slots):
        queue.remove_slots(task=task, slot_ids=unused)


# --- savings --------------------------------------------------------------------------------------

# The lateral join with OFFSET makes the planner use the index to count each task's slots.
_SAVINGS = """
SELECT count(*), coalesce(sum(slots.count), 0),
    coalesce(sum(greatest(0, task.stopped_below - slots.count)), 0)
FROM (
    SELECT DISTINCT newest.task_id, newest.stopped_below FROM (
        SELECT ranking.task_id, task.stopped_below FROM labeling_ranking ranking
        JOIN labeling_task task ON task.id = ranking.task_id
        WHERE task.project_id = %(project)s AND task.stopped_below IS NOT NULL
          AND NOT task.inactive
        ORDER BY ranking.id DESC LIMIT %(limit)s
    ) newest
) task
CROSS JOIN LATERAL (
    SELECT count(*), bool_and(slot.ranking_id IS NOT NULL) AS finished
    FROM labeling_slot slot WHERE slot.task_id = task.task_id
    OFFSET 0
) slots
WHERE slots.finished
"""


@dataclass(frozen=True)
class Savings:
    """The tasks that sequential overlap finished, and the number of rankings they needed.

    Tasks that were finished by fixed overlap, by a lead's decision or by an import are not counted.
    """

    tasks: int
    rankings: int
    rankings_saved: int
    """Number of rankings that were not needed because the order was clear."""
    capped: bool

    @property
    def fixed(self) -> int:
        """Return the number of rankings needed if each task had the maximum number of rankings."""
        return self.rankings + self.rankings_saved

    @property
    def share(self) -> float | None:
        return self.rankings_saved / self.fixed if self.fixed else None


def savings(project: Project, *, limit: int = MAX_COUNT) -> Savings:
    """Return the savings over the tasks of the newest `limit` rankings."""
    with connection.cursor() as cursor:
        cursor.execute(_SAVINGS, {"project": project.pk, "limit": limit})
        tasks, rankings, fewer = cursor.fetchone()
    return Savings(tasks, int(rankings), int(fewer), rankings >= limit)

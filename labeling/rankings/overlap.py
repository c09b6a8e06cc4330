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

from labeling.models import Adjudication, Project, Ranking, Slot, Task
from labeling.quality.measures import reliabilities_of
from labeling.queue import slots as queue
from labeling.queue.out_of_use import PARKED
from labeling.statistics.agreement import Tiers
from labeling.statistics.reliability import Reliabilities, log_confusion, log_truth

STRANGERS = Reliabilities()
"""Reviewers of whom nothing is known yet."""

COUNTED_AT_MOST = 5_000
LEARNED_FROM = 30

Sides = np.ndarray  # (pairs, 3) float64; the first of the pair is better, they tie, it is worse


def sides_of_pairs(
    rankings: Sequence[Tiers], response_ids: Collection[int], known: Reliabilities = STRANGERS
) -> Sides:
    """What is probably true of each pair, in the order of `combinations` of the sorted ids.

    The model of Dawid and Skene (1979) as labeling.statistics.reliability has it, with one
    confusion for all reviewers, `known.typical`: P(side | rankings) ∝ P(side) Π P(said | side),
    where P(tied) is `known.tied` before anything is said. Everyone counts alike, as they do in a
    snapshot: who is trusted less must not end the asking. A ranking says nothing of a pair that
    it did not place.
    """
    pairs = list(combinations(sorted(response_ids), 2))
    one = known.typical
    confusion = np.array([one.right, one.tie, max(0.0, 1 - one.right - one.tie), one.tie_of_tie])
    said = log_confusion(confusion)  # (truth, said)
    logs = np.tile(log_truth(known.tied), (len(pairs), 1))
    for tiers in rankings:
        place = {response: tier for tier, tied in enumerate(tiers) for response in tied}
        for pair, (a, b) in enumerate(pairs):
            if a in place and b in place:
                logs[pair] += said[:, 1 + int(np.sign(place[a] - place[b]))]
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def best_is(sides: Sides, count: int) -> float:
    """How probable it is that the best of `count` responses are those the pairs say.

    Each response is unbeaten with the product over its pairs of P(better or tied), as if pairs
    were independent; the products are made to sum to 1 over the responses, as one of them must be
    unbeaten. The best are those that no pair says are worse.
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
    known: Reliabilities = STRANGERS,
) -> bool:
    """Whether the side of every pair, and the best response, have at least this probability."""
    sides = sides_of_pairs(rankings, response_ids, known)
    sure = bool((sides.max(axis=1) >= certainty).all())
    return sure and best_is(sides, len(response_ids)) >= certainty


def learned(project: Project) -> Reliabilities:
    """What the project's rankings say of its reviewers, up to ten minutes old; no query mostly.

    Fewer than LEARNED_FROM tasks with two rankings say too little: they are strangers until then.
    """
    found = reliabilities_of(project)
    met = sum(one.tasks for one in found.of.values())
    return found if met >= 2 * LEARNED_FROM else STRANGERS


# --- a task gets one more, or one less -----------------------------------------------------------


def looks_at(task: Task) -> bool:
    """Whether a ranking of the task can change how many more it gets."""
    if task.out_of_use:
        return False
    return task.project.overlap == Project.Overlap.SEQUENTIAL and task.kind == Task.Kind.RANKING


def after_ranking(task: Task) -> Slot | None:
    """The slot that was added, if the task is unclear; None with fixed overlap, at no cost.

    Call it in the transaction that wrote the ranking and holds the locks of the task's slots: they
    let one ranking of a task be written at a time. One query, and a few when the slots are filled.
    """
    project = task.project
    if not looks_at(task):
        return None
    slots = list(Slot.objects.filter(task=task).order_by("number"))
    if any(slot.priority >= PARKED for slot in slots):
        return None  # withdrawn since the task was read
    complete = all(slot.ranking_id is not None for slot in slots)
    may_add = complete and len(slots) < project.rankings_at_most
    if not (may_add or _unused(task, slots)):
        if complete:
            _mark_stopped(task, project)
        return None
    if Adjudication.objects.filter(task=task).exists():
        _withdraw(task, slots)
        return None
    if _is_clear(task, project):
        _withdraw(task, slots)
        _mark_stopped(task, project)
        return None
    return queue.add_slot(task=task) if may_add else None


def settle(task: Task) -> None:
    """Ask no more of a task whose outcome a lead has decided. The caller holds its slots' locks."""
    _withdraw(task, list(Slot.objects.filter(task=task).order_by("number")))


def _mark_stopped(task: Task, project: Project) -> None:
    """Note that sequential overlap, and nothing else, asks no more of the task."""
    unmarked = Task.objects.filter(pk=task.pk).exclude(stopped_below=project.rankings_at_most)
    unmarked.update(stopped_below=project.rankings_at_most)


def _is_clear(task: Task, project: Project) -> bool:
    current = Ranking.objects.filter(task=task, superseded_at=None)
    return is_clear(
        list(current.values_list("tiers", flat=True)),
        list(task.places.filter(withdrawn=False).values_list("response_id", flat=True)),
        certainty=project.certainty,
        known=learned(project),
    )


def _unused(task: Task, slots: Sequence[Slot]) -> list[int]:
    """As many slots as were added here and nobody has begun: they lie above the task's priority."""
    added = sum(slot.priority > task.priority for slot in slots)
    free = [slot.pk for slot in slots if slot.reviewer_id is None and slot.draft_by_id is None]
    return free[::-1][:added]


def _withdraw(task: Task, slots: Sequence[Slot]) -> None:
    if unused := _unused(task, slots):
        queue.remove_slots(task=task, slot_ids=unused)


# --- what it saved -------------------------------------------------------------------------------

# A lateral join counts each task's slots through their index, whatever the planner thinks of many.
_SAVED = """
SELECT count(*), coalesce(sum(slots.count), 0),
    coalesce(sum(greatest(0, task.stopped_below - slots.count)), 0)
FROM (
    SELECT DISTINCT newest.task_id, newest.stopped_below FROM (
        SELECT ranking.task_id, task.stopped_below FROM labeling_ranking ranking
        JOIN labeling_task task ON task.id = ranking.task_id
        WHERE task.project_id = %(project)s AND task.stopped_below IS NOT NULL
          AND NOT task.out_of_use
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
class Saved:
    """Finished tasks about which sequential overlap decided, and how many rankings they took.

    Not counted are tasks finished with fixed overlap, by a lead's decision or by an import.
    """

    tasks: int
    rankings: int
    saved: int
    """Rankings it could have asked for, and did not, as the order was clear."""
    capped: bool

    @property
    def fixed(self) -> int:
        """What asking for the maximum each time would have taken."""
        return self.rankings + self.saved

    @property
    def share(self) -> float | None:
        return self.saved / self.fixed if self.fixed else None


def saved(project: Project, *, limit: int = COUNTED_AT_MOST) -> Saved:
    """Over the tasks of the newest `limit` rankings. One query, bounded by the limit."""
    with connection.cursor() as cursor:
        cursor.execute(_SAVED, {"project": project.pk, "limit": limit})
        tasks, rankings, fewer = cursor.fetchone()
    return Saved(tasks, int(rankings), int(fewer), rankings >= limit)

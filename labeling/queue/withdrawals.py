"""Inactive tasks and their slots.

A task is inactive while it or its prompt is withdrawn, or while fewer than two of its responses are
left. A gold task is also inactive while any of its responses is withdrawn, because its answer refers to
all of them.

The slots of an inactive task keep their rankings, drafts and past reviewers. PARKED is added to their
priority. Claims read only the priorities 9 to 0, so parked slots do not slow them down.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.expressions import RawSQL

from database.lookups import AnyOf
from labeling.models import Prompt, Response, Slot, Task, TaskResponse

PARKED = 20
"""Added to the priority of each slot of an inactive task."""

RESPONSES_TO_RANK = """
ARRAY(SELECT place.response_id FROM labeling_taskresponse place
      WHERE place.task_id = labeling_task.id AND (labeling_task.inactive OR NOT place.withdrawn)
      ORDER BY place.position)
"""
"""An SQL expression for the ids of the responses to rank in `labeling_task`, in the task's order.
Withdrawn responses are left out, except for an inactive task, whose late ranking may include them."""

_PLACES = """
UPDATE labeling_taskresponse place SET withdrawn = NOT place.withdrawn
FROM labeling_response response
WHERE response.id = place.response_id AND place.task_id = ANY(%(tasks)s)
  AND place.withdrawn <> (response.withdrawn_at IS NOT NULL)
"""

_TASKS = """
UPDATE labeling_task task SET inactive = state.inactive
FROM (
    SELECT own.id, own.withdrawn_at IS NOT NULL OR prompt.withdrawn_at IS NOT NULL
        OR count(*) FILTER (WHERE NOT place.withdrawn)
            < CASE WHEN own.kind = 'gold' THEN count(*) ELSE 2 END AS inactive
    FROM labeling_task own
    JOIN labeling_prompt prompt ON prompt.id = own.prompt_id
    JOIN labeling_taskresponse place ON place.task_id = own.id
    WHERE own.id = ANY(%(tasks)s)
    GROUP BY own.id, prompt.id
) state
WHERE state.id = task.id AND task.inactive <> state.inactive
RETURNING task.id
"""

# This also frees leases, like slots.free_leases. One statement does both, because it may run for
# thousands of tasks. A restored task's free slots go to the back of their priority, because cursors may
# have passed their old positions.
_SLOTS = f"""
UPDATE labeling_slot slot SET
    priority = slot.priority + CASE WHEN task.inactive THEN {PARKED} ELSE -{PARKED} END,
    position = CASE WHEN task.inactive OR slot.ranking_id IS NOT NULL THEN slot.position
        ELSE nextval('labeling_queue_position') END,
    reviewer_id = CASE WHEN slot.ranking_id IS NOT NULL THEN slot.reviewer_id END,
    leased_until = NULL,
    ahead = false
FROM labeling_task task
WHERE task.id = slot.task_id AND task.id = ANY(%(tasks)s)
  AND (slot.priority >= {PARKED}) <> task.inactive
"""  # noqa: S608 - made of constants

# Reviewers who have one of these tasks open see it without the response once they reload the page.
_SHOWN = """
UPDATE labeling_slot slot SET shown_order = ARRAY(
    SELECT place.response_id FROM labeling_taskresponse place
    WHERE place.task_id = slot.task_id AND NOT place.withdrawn
    ORDER BY array_position(slot.shown_order, place.response_id) NULLS LAST, place.position)
WHERE slot.task_id = ANY(%(tasks)s) AND slot.leased_until IS NOT NULL
"""


@transaction.atomic
def refresh(task_ids: Iterable[int]) -> list[int]:
    """Update tasks and slots after a withdrawal or restoration; return the ids of changed tasks.

    Frees the leases of tasks that become inactive. Costs six statements for any number of tasks.
    """
    tasks = sorted(set(task_ids))
    lock(tasks)
    with connection.cursor() as cursor:
        cursor.execute(_PLACES, {"tasks": tasks})
        places_changed = cursor.rowcount
        cursor.execute(_TASKS, {"tasks": tasks})
        changed = [pk for (pk,) in cursor.fetchall()]
        cursor.execute(_SLOTS, {"tasks": tasks})
        if places_changed:
            cursor.execute(_SHOWN, {"tasks": tasks})
    return changed


def lock(tasks: list[int]) -> None:
    """Lock the slots of these tasks before anything is withdrawn.

    A gold task is locked before its slots, as in slots.lease_new_slot. Other tasks are not locked here,
    because a submission locks slots before the task (slots.add_slot), and the reverse order could
    deadlock.
    """
    rows: list[QuerySet[Any]] = [
        Task.objects.filter(pk__in=tasks, kind=Task.Kind.GOLD)
        .order_by("pk")
        .select_for_update(no_key=True),
        Slot.objects.filter(task__in=tasks)
        .order_by("task", "number")
        .select_for_update(of=("self",)),
    ]
    for locked in rows:
        list(locked.values_list("pk", flat=True))


def lock_additions(project_id: int) -> None:
    """Serialise additions of tasks and withdrawals in this project until the end of the transaction.

    Without this lock, a task that is added during a withdrawal could miss it and stay in use.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('labeling.add_tasks', %s))",
            [project_id],
        )


def follow_withdrawals(prompt_ids: Iterable[int], task_ids: list[int]) -> None:
    """Update new tasks whose prompt or responses were already withdrawn. Costs two index queries."""
    prompts = list(prompt_ids)
    if (
        Prompt.objects.filter(AnyOf("pk", prompts), withdrawn_at__isnull=False).exists()
        or Response.objects.filter(AnyOf("prompt", prompts), withdrawn_at__isnull=False).exists()
    ):
        refresh(task_ids)


def parked(task: Task, priority: int) -> int:
    """Return the priority of a new slot, which is parked if the task is inactive."""
    return priority + PARKED if task.inactive else priority


def response_ids_to_rank() -> RawSQL:
    """Return RESPONSES_TO_RANK as an expression, for queries that select from or join tasks."""
    return RawSQL(RESPONSES_TO_RANK, [])  # noqa: S611 - a constant


def responses_to_rank(task: Task) -> list[int]:
    """Return the ids of the responses to rank, in the task's order."""
    ids = Task.objects.filter(pk=task.pk).annotate(ids=response_ids_to_rank())
    return ids.values_list("ids", flat=True).get()


def withdrawn_of(task_ids: Any) -> frozenset[int]:
    """Return the ids of the tasks' withdrawn responses. `task_ids` are ids or a subquery."""
    places = TaskResponse.objects.filter(task__in=task_ids, withdrawn=True)
    return frozenset(places.values_list("response_id", flat=True))


def without(
    tiers: Sequence[Sequence[int]], cut: int | None, removed: Collection[int]
) -> tuple[list[list[int]], int | None]:
    """Return the tiers and the cut of a ranking without these responses."""
    remaining = [[pk for pk in tier if pk not in removed] for tier in tiers]
    nonempty = [tier for tier in remaining if tier]
    return nonempty, None if cut is None else sum(bool(tier) for tier in remaining[:cut])


def among(
    tiers: Sequence[Sequence[int]], cut: int | None, responses: Collection[int]
) -> tuple[list[list[int]], int | None]:
    """Return the tiers and the cut of a ranking restricted to these responses."""
    return without(tiers, cut, {pk for tier in tiers for pk in tier}.difference(responses))

"""Inactive tasks and their slots.

A task is inactive while it or its prompt is withdrawn, or while fewer than two of its responses are
left. A gold task is inactive if any of its responses is withdrawn, as its answer refers to them.

The slots of such a task are kept, with their rankings, unfinished drafts and past reviewers. PARKED
is added to their priority. Claims read the priorities 9 to 0 only, so parked slots cost them nothing.
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
"""The ids of the responses of `labeling_task` to rank, in its order. A late ranking of a task that is
inactive may have withdrawn responses too."""

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

# Frees leases, as slots.free_leases does; in the same statement, as this runs for thousands of tasks.
# A free slot of a restored task goes to the back of its priority: cursors may have passed its position.
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

# A reviewer who has such a task open sees it without the response after reloading the page.
_SHOWN = """
UPDATE labeling_slot slot SET shown_order = ARRAY(
    SELECT place.response_id FROM labeling_taskresponse place
    WHERE place.task_id = slot.task_id AND NOT place.withdrawn
    ORDER BY array_position(slot.shown_order, place.response_id) NULLS LAST, place.position)
WHERE slot.task_id = ANY(%(tasks)s) AND slot.leased_until IS NOT NULL
"""


@transaction.atomic
def refresh(task_ids: Iterable[int]) -> list[int]:
    """Update tasks and slots after a withdrawal or restoration; return ids of tasks that changed.

    Frees the leases of tasks that become inactive. Six statements for any number of tasks.
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

    Gold tasks are locked before their slots, in the order in which leasing gold locks them. Other
    tasks are not locked here: a submission locks slots before the task (slots.add_slot). The reverse
    order could deadlock.
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
    """Lock the project against concurrent additions of tasks and withdrawals, until the commit.

    Without the lock, a task added during a withdrawal would stay in use.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('labeling.add_tasks', %s))",
            [project_id],
        )


def follow_withdrawals(prompt_ids: Iterable[int], task_ids: list[int]) -> None:
    """Refresh new tasks if their prompt or a response is withdrawn. Costs two queries of indexes."""
    prompts = list(prompt_ids)
    if (
        Prompt.objects.filter(AnyOf("pk", prompts), withdrawn_at__isnull=False).exists()
        or Response.objects.filter(AnyOf("prompt", prompts), withdrawn_at__isnull=False).exists()
    ):
        refresh(task_ids)


def parked(task: Task, priority: int) -> int:
    """Return the priority of a new slot: parked if the task is inactive."""
    return priority + PARKED if task.inactive else priority


def response_ids_to_rank() -> RawSQL:
    """Return RESPONSES_TO_RANK as an expression, for queries of tasks or joined to them."""
    return RawSQL(RESPONSES_TO_RANK, [])  # noqa: S611 - a constant


def responses_to_rank(task: Task) -> list[int]:
    """Return the ids of the task's responses to rank, in its order. One query."""
    ids = Task.objects.filter(pk=task.pk).annotate(ids=response_ids_to_rank())
    return ids.values_list("ids", flat=True).get()


def withdrawn_of(task_ids: Any) -> frozenset[int]:
    """Return the ids of withdrawn responses of tasks, given as ids or a subquery. One query."""
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

"""SQL statements that fill slots: one for a submission, one for an import.

Most submissions need two statements: `slot_to_answer` reads the slot, and `fill_leased` writes the
ranking. labeling.rankings.recording decides whether more are needed.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

from django.db import IntegrityError, connection, transaction
from psycopg.types.numeric import Int8

from accounts.models import User
from database.statements import columns, fetch, from_columns
from labeling.models import Project, Ranking, Slot, Task
from labeling.queue.withdrawals import RESPONSES_TO_RANK, response_ids_to_rank

_SLOT = f"""
SELECT {RESPONSES_TO_RANK}, {columns(Slot, "slot")}, {columns(Task, "labeling_task")}
FROM labeling_slot slot JOIN labeling_task ON labeling_task.id = slot.task_id
WHERE slot.id = %(slot)s AND slot.project_id = %(project)s
  AND (slot.reviewer_id = %(reviewer)s OR %(reviewer)s = ANY(slot.past_reviewers))
"""  # noqa: S608 - made of constants


@dataclass(frozen=True)
class SlotToAnswer:
    """A slot, with its task and project loaded, and the responses to rank in the task's order."""

    slot: Slot
    response_ids: list[int]


def slot_to_answer(project: Project, slot_id: int, reviewer: User) -> SlotToAnswer | None:
    """Return the slot that the reviewer answers, or None if it was never leased to this reviewer.

    The query checks the reviewer, because an invalid answer is shown again with its task: a reviewer
    could otherwise see tasks that were not assigned to them, including gold. Costs one query.
    """
    rows = fetch(
        _SLOT,
        {"slot": Int8(slot_id), "project": Int8(project.pk), "reviewer": Int8(reviewer.pk)},
    )
    if not rows:
        return None
    [[response_ids, *values]] = rows
    width = len(Slot._meta.concrete_fields)
    slot = from_columns(Slot, values[:width])
    slot.task, slot.project = from_columns(Task, values[width:]), project
    slot.task.project = project
    return SlotToAnswer(slot, response_ids)


def any_slot(slot_id: int) -> SlotToAnswer | None:
    """Return the slot with this id in any project, or None if it does not exist. Costs one query."""
    slots = Slot.objects.select_related("task__project__current_version")
    slot = slots.annotate(response_ids=response_ids_to_rank()).filter(pk=slot_id).first()
    return None if slot is None else SlotToAnswer(slot, slot.response_ids)


# The lock serialises two answers to one slot, so that the second one sees that the slot is filled.
_FILL = """
WITH held AS MATERIALIZED (
    SELECT slot.id FROM labeling_slot slot
    WHERE slot.id = %(slot)s AND slot.task_id = %(task_id)s AND slot.reviewer_id = %(reviewer_id)s
      AND slot.ranking_id IS NULL
    FOR UPDATE
), made AS (
    INSERT INTO labeling_ranking ({names}) SELECT {values} FROM held
    RETURNING id, shown_order
)
UPDATE labeling_slot slot SET
    leased_until = NULL, ahead = false, ranking_id = made.id, shown_order = made.shown_order,
    draft = NULL, draft_by_id = NULL
FROM held, made WHERE slot.id = held.id
RETURNING made.id
"""


@lru_cache
def _fill_statement() -> str:
    fields = [field for field in Ranking._meta.concrete_fields if not field.primary_key]
    names = ", ".join(str(field.column) for field in fields)
    values = ", ".join(f"%({field.attname})s::{field.db_type(connection)}" for field in fields)
    return _FILL.replace("{names}", names).replace("{values}", values)


def fill_leased(slot: Slot, ranking: Ranking) -> bool:
    """Save the new ranking and fill the slot with it, in one statement; return whether this succeeded.

    Nothing is written unless, in the database, the reviewer holds the slot and has not ranked the task.
    The state of the `slot` instance does not matter, only its id.
    """
    values = {
        field.attname: field.get_db_prep_save(getattr(ranking, field.attname), connection)
        for field in Ranking._meta.concrete_fields
    }
    try:
        with transaction.atomic() if connection.in_atomic_block else nullcontext():
            rows = fetch(_fill_statement(), {**values, "slot": Int8(slot.pk)})
    except IntegrityError:  # a duplicate or an already ranked task; the caller finds out which
        return False
    if rows:
        [[ranking.pk]] = rows
        ranking._state.adding = False
    return bool(rows)


def fill_imported(filled: Sequence[tuple[int, int, int, int]]) -> None:
    """Fill slots with imported rankings. Each row is (task id, slot number, reviewer id, ranking id)."""
    arrays = [list(column) for column in zip(*filled, strict=True)] or [[], [], [], []]
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE labeling_slot slot"
            " SET reviewer_id = made.reviewer, ranking_id = made.ranking, leased_until = NULL"
            " FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::bigint[])"
            " AS made(task, number, reviewer, ranking)"
            " WHERE slot.task_id = made.task AND slot.number = made.number",
            arrays,
        )

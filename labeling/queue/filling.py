"""SQL statements that fill slots: one for a submission, one for an import.

Most submissions need two statements: `slot_to_answer` in labeling.queue.answering reads the slot, and
`fill_leased` writes the ranking. labeling.rankings.recording decides whether more are needed.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache

from django.db import IntegrityError, connection, transaction
from psycopg.types.numeric import Int8

from database.statements import fetch
from labeling.models import Ranking, Slot
from webhooks import events

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
), announced AS (
    {announce}
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
    announce = events.INSERT.format(
        event="'ranking.submitted'",
        subject="made.id::text",
        data="jsonb_build_object('ranking', made.id, 'task', %(task_id)s::bigint)",
        project="%(project_of_slot)s::bigint",
        source=" CROSS JOIN made",
    )
    statement = _FILL.replace("{announce}", announce)
    return statement.replace("{names}", names).replace("{values}", values)


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
            rows = fetch(
                _fill_statement(),
                {**values, "slot": Int8(slot.pk), "project_of_slot": slot.project_id},
            )
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

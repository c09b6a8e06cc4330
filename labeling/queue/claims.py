"""SQL statements that lease slots.

The cost of a claim does not depend on the number of tasks. Free slots are read in the order of a
partial index, starting at the reviewer's cursor. All slots before the cursor belong to tasks that the
reviewer has ranked or skipped, so a claim does not read them again, even for a reviewer with 50,000
rankings. The cursor never passes a slot just because another transaction has locked it. It can pass a
slot that was not committed yet, or one whose skip was later deleted. If a claim finds nothing,
labeling.queue.slots therefore resets the reviewer's cursors, at most once a minute.
"""

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, OperationalError, connection, transaction
from psycopg.errors import DeadlockDetected
from psycopg.types.numeric import Int8

from accounts.models import User
from database.statements import columns, fetch, from_columns
from labeling.models import Project, Slot
from labeling.queue.display_order import SHOWN_ORDER
from labeling.queue.withdrawals import PARKED

CURSOR_STEP = 32
"""A claim moves the cursor only if it would pass at least this many positions, to save writes."""

_HAD_BEFORE = """CASE
    WHEN (SELECT 1 FROM labeling_ranking ranking
      WHERE ranking.task_id = slot.task_id AND ranking.reviewer_id = %(reviewer)s
        AND ranking.superseded_at IS NULL LIMIT 1) IS NOT NULL THEN true
    WHEN (SELECT 1 FROM labeling_skip skip
      WHERE skip.task_id = slot.task_id AND skip.reviewer_id = %(reviewer)s LIMIT 1) IS NOT NULL
      THEN true
    ELSE false END"""
# These are scalar subqueries, because the planner cannot turn them into a join over the reviewer's whole
# history. They are in a CASE, because the planner then expects half of the slots to match and reads them
# in order. Without the CASE, it expects almost no matches and sorts all free slots of the project.

_CURSOR = """coalesce((SELECT place.position FROM labeling_queuecursor place
    WHERE place.project_id = %(project)s AND place.reviewer_id = %(reviewer)s
      AND place.priority = band.priority), 0)"""

_FREE = """FROM labeling_slot slot
    WHERE slot.project_id = %(project)s AND slot.reviewer_id IS NULL
      AND slot.priority = band.priority"""

_COLUMNS = columns(Slot)

_NOT_MINE = "slot.task_id <> ALL (ARRAY(SELECT seen.task_id FROM seen))"

# generate_series feeds a nested loop, which reads the priorities from the highest down and stops at the
# first one that has a slot. Lower priorities are neither read nor locked.
#
# The reviewer's leases are locked in order of their ids. `held` has their state after the lock: a slot
# may have been filled while the statement waited. `seen` still contains the task of that slot, so the
# task is not offered again, although this statement cannot see the new ranking.
#
# The cursor does not pass slots of tasks that the reviewer only leases, because a lease may be released.
CLAIM = f"""
WITH seen AS MATERIALIZED (
    SELECT slot.task_id FROM labeling_slot slot
    WHERE slot.project_id = %(project)s AND slot.reviewer_id = %(reviewer)s
      AND slot.leased_until IS NOT NULL
), held AS MATERIALIZED (
    SELECT slot.id, slot.ahead FROM labeling_slot slot
    WHERE slot.project_id = %(project)s AND slot.reviewer_id = %(reviewer)s
      AND slot.leased_until IS NOT NULL
    ORDER BY slot.id FOR UPDATE OF slot
), unfinished AS MATERIALIZED (
    SELECT slot.id FROM labeling_slot slot
    WHERE slot.project_id = %(project)s AND slot.reviewer_id IS NULL
      AND slot.draft_by_id = %(reviewer)s AND slot.priority < {PARKED}
      AND NOT EXISTS (SELECT FROM held WHERE held.ahead = %(ahead)s)
      AND (NOT %(ahead)s OR EXISTS (SELECT FROM held))
      AND {_NOT_MINE} AND NOT {_HAD_BEFORE}
    ORDER BY slot.id LIMIT 1 FOR UPDATE OF slot SKIP LOCKED
), stays AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM held WHERE NOT held.ahead)
        OR CASE WHEN %(ahead)s THEN NOT %(promote)s ELSE EXISTS (SELECT FROM unfinished) END
        AS ahead
), mine AS (
    UPDATE labeling_slot SET
        leased_until = now() + %(lease)s,
        ahead = ahead AND (SELECT stays.ahead FROM stays),
        shown_at = CASE WHEN id = %(shown_slot)s AND NOT (ahead AND (SELECT stays.ahead FROM stays))
            THEN coalesce(shown_at, now()) ELSE shown_at END
    WHERE id = ANY (ARRAY(SELECT held.id FROM held))
    RETURNING *
), wanted AS MATERIALIZED (
    SELECT WHERE NOT EXISTS (SELECT FROM unfinished) AND CASE WHEN %(ahead)s
        THEN EXISTS (SELECT FROM mine) AND NOT EXISTS (SELECT FROM mine WHERE mine.ahead)
        ELSE NOT EXISTS (SELECT FROM mine) END
), open AS MATERIALIZED (
    SELECT band.priority, free.position
    FROM generate_series(9, 0, -1) AS band(priority)
    CROSS JOIN LATERAL (
        SELECT slot.position {_FREE} AND slot.position > {_CURSOR} AND NOT {_HAD_BEFORE}
        ORDER BY slot.position LIMIT 1
    ) free
    WHERE EXISTS (SELECT FROM wanted)
    LIMIT 1
), fresh AS MATERIALIZED (
    SELECT free.id
    FROM generate_series((SELECT priority FROM open), 0, -1) AS band(priority)
    CROSS JOIN LATERAL (
        SELECT slot.id {_FREE} AND slot.position >= CASE
            WHEN band.priority = (SELECT priority FROM open) THEN (SELECT position FROM open)
            ELSE {_CURSOR} + 1 END
          AND {_NOT_MINE} AND NOT {_HAD_BEFORE}
        ORDER BY slot.position LIMIT 1 FOR UPDATE OF slot SKIP LOCKED
    ) free
    LIMIT 1
), passed AS (
    INSERT INTO labeling_queuecursor AS place
        (project_id, reviewer_id, priority, position, rescanned_at)
    SELECT %(project)s, %(reviewer)s, band.priority, upto.position, now()
    FROM generate_series(9, coalesce((SELECT priority FROM open), 0), -1) AS band(priority)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN band.priority = (SELECT priority FROM open)
            THEN (SELECT position - 1 FROM open)
            ELSE (SELECT max(slot.position) {_FREE}) END AS position
    ) upto
    WHERE EXISTS (SELECT FROM wanted) AND upto.position >= {_CURSOR} + %(step)s
    ON CONFLICT (project_id, reviewer_id, priority)
        DO UPDATE SET position = greatest(place.position, EXCLUDED.position)
), taken AS (
    UPDATE labeling_slot slot SET
        reviewer_id = %(reviewer)s,
        leased_until = now() + %(lease)s,
        ahead = %(ahead)s,
        shown_order = {SHOWN_ORDER},
        shown_at = CASE WHEN slot.draft_by_id = %(reviewer)s THEN slot.shown_at END,
        draft = CASE WHEN slot.draft_by_id = %(reviewer)s THEN slot.draft END,
        draft_by_id = CASE WHEN slot.draft_by_id = %(reviewer)s THEN slot.draft_by_id END
    WHERE slot.id = coalesce((SELECT id FROM unfinished), (SELECT id FROM fresh))
    RETURNING slot.*
)
SELECT {_COLUMNS} FROM mine UNION ALL SELECT {_COLUMNS} FROM taken
"""  # noqa: S608 - made of constants


LEASE = f"""
UPDATE labeling_slot slot SET
    reviewer_id = %(reviewer)s,
    leased_until = now() + project.lease_minutes * interval '1 minute',
    ahead = %(ahead)s,
    shown_order = {SHOWN_ORDER}
FROM labeling_project project
WHERE slot.id = %(id)s AND project.id = slot.project_id AND slot.reviewer_id IS NULL
RETURNING slot.*
"""  # noqa: S608 - made of constants
"""Lease one given slot, if it is free. Used for gold slots, which are not taken from the queue."""


def claim_leases(
    project: Project,
    reviewer: User,
    *,
    ahead: bool,
    promote: bool = False,
    shown_slot: int = 0,
    attempts: int = 5,
) -> dict[bool, Slot]:
    """Lease a slot if the reviewer lacks a lease of the requested kind, and return all their leases.

    The result has the key False for the current lease and True for the lease ahead. `ahead` selects the
    kind to lease. With `promote`, the lease ahead becomes current if there is no current one, and another
    slot is leased ahead. If the slot with the id `shown_slot` is then current, it is marked as shown.

    If one reviewer makes two claims at the same time, a constraint or the deadlock detector aborts one of
    them, which retries and returns the same slot as the other. A claim waits for any transaction that is
    filling one of the reviewer's leases. Do not call this function in a transaction that fills a slot:
    two such transactions could deadlock.
    """
    parameters = parameters_of(
        project, reviewer, ahead=ahead, promote=promote, shown_slot=shown_slot
    )
    for attempt in range(1, attempts + 1):
        try:
            with transaction.atomic() if connection.in_atomic_block else nullcontext():
                slots = [from_columns(Slot, row) for row in fetch(CLAIM, parameters)]
                return {slot.ahead: slot for slot in slots}
        except (IntegrityError, OperationalError) as error:
            aborted = isinstance(error, IntegrityError) or isinstance(
                error.__cause__, DeadlockDetected
            )
            if attempt == attempts or not aborted:
                raise
    return {}


def parameters_of(
    project: Project,
    reviewer: User,
    *,
    ahead: bool = False,
    promote: bool = False,
    shown_slot: int = 0,
) -> dict[str, Any]:
    return {
        "project": Int8(project.pk),
        "reviewer": Int8(reviewer.pk),
        "lease": timedelta(minutes=project.lease_minutes),
        "step": CURSOR_STEP,
        "ahead": ahead,
        "promote": promote,
        "shown_slot": Int8(shown_slot),
    }

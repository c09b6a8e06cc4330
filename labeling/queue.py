"""Who gets which task next. A slot is free, leased or filled; only these functions move it.

Order: higher priority first, then `position`. The slots of a task stand side by side, so tasks are
finished one after the other instead of all being begun: a ranking counts for agreement only once
its task has the others. A slot that comes back goes to the back of its priority.

What a claim costs does not depend on how much there is. Free slots are read in the order of a
partial index, from where the reviewer's cursor stands. Behind the cursor lie only slots of tasks
they had, so a reviewer of 50,000 tasks does not step over them again. The cursor never passes a
slot that was merely locked. It can pass one that was not committed yet, or came back by a deleted
skip: when a reviewer finds nothing, the cursors start over, at most once in RESCAN_AFTER.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

from django.db import IntegrityError, connection, models, transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from labeling.models import Project, Prompt, QueueCursor, Response, Skip, Slot, Task

RESCAN_AFTER = timedelta(minutes=1)
CURSOR_STEP = 32
"""How many free slots a claim may step over before the cursor is written."""

EXPIRED_AT_ONCE = 1000
TASKS_AT_ONCE = 5000


class NextPosition(models.Func):
    template = "nextval('labeling_queue_position')"
    output_field = models.BigIntegerField()


# --- adding tasks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewTask:
    prompt_id: int
    response_ids: Sequence[int]
    priority: int = 5
    rankings_wanted: int | None = None
    kind: str = Task.Kind.RANKING

    def problem(self) -> str | None:
        count = len(self.response_ids)
        if len(set(self.response_ids)) != count:
            return "A task cannot hold the same response twice."
        if not 2 <= count <= 9:
            return f"A task ranks 2 to 9 responses; this one has {count}."
        if not 0 <= self.priority <= 9:
            return f"A priority goes from 0 to 9; this is {self.priority}."
        if self.rankings_wanted is not None and not 1 <= self.rankings_wanted <= 9:
            return f"A task wants 1 to 9 rankings; this one wants {self.rankings_wanted}."
        return None


def add_task(
    *,
    project: Project,
    prompt: Prompt,
    responses: Sequence[Response],
    priority: int = 5,
    rankings_wanted: int | None = None,
    kind: str = Task.Kind.RANKING,
) -> tuple[Task, bool]:
    """The task and whether it is new: the same kind of work on the same responses exists once.

    Raises ValueError for a task that cannot be ranked.
    """
    if any(response.prompt_id != prompt.pk for response in responses):
        raise ValueError("A task ranks responses to its own prompt only.")
    ids = [response.pk for response in responses]
    new = NewTask(prompt.pk, ids, priority, rankings_wanted, kind)
    [(task_id, created)] = add_tasks(project=project, tasks=[new])
    return Task.objects.get(pk=task_id), created


@transaction.atomic
def add_tasks(*, project: Project, tasks: Iterable[NewTask]) -> list[tuple[int, bool]]:
    """Id and newness of every task, in order, with their slots. 100,000 take some ten seconds.

    Adding to one project happens one transaction after the other. Raises ValueError.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('labeling.add_tasks', %s))", [project.pk]
        )
    source, added = iter(tasks), []
    while batch := list(islice(source, TASKS_AT_ONCE)):
        added += _add_batch(project, batch)
    return added


def _add_batch(project: Project, batch: list[NewTask]) -> list[tuple[int, bool]]:
    if problem := next((problem for task in batch if (problem := task.problem())), None):
        raise ValueError(problem)
    identities = [Task.identity_of(task.kind, task.response_ids) for task in batch]
    known = dict(
        Task.objects.filter(project=project, identity__in=identities).values_list("identity", "pk")
    )
    fresh = {
        identity: task
        for identity, task in zip(identities, batch, strict=True)
        if identity not in known
    }
    ids = dict(zip(fresh, reserve_ids("labeling_task", len(fresh)), strict=True))
    _write_tasks(project, fresh, ids)
    seen: set[str] = set(known)
    added = []
    for identity in identities:
        added.append((known.get(identity) or ids[identity], identity not in seen))
        seen.add(identity)
    return added


def reserve_ids(table: str, count: int) -> list[int]:
    """Ids for rows that are about to be copied in. One query."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)",
            [table, count],
        )
        return [row[0] for row in cursor.fetchall()]


def _write_tasks(project: Project, fresh: dict[str, NewTask], ids: dict[str, int]) -> None:
    now = timezone.now()
    tasks, places, slots = [], [], []
    for identity, task in fresh.items():
        pk, wanted = ids[identity], task.rankings_wanted or project.rankings_per_task
        tasks.append(
            (pk, project.pk, task.prompt_id, task.kind, task.priority, wanted, identity, now)
        )
        places += [(pk, response, place) for place, response in enumerate(task.response_ids)]
        slots += [(pk, number, project.pk, task.priority) for number in range(1, wanted + 1)]
    copy_rows(
        "labeling_task (id, project_id, prompt_id, kind, priority, rankings_wanted, identity,"
        " created_at)",
        tasks,
    )
    copy_rows("labeling_taskresponse (task_id, response_id, position)", places)
    copy_rows("labeling_slot (task_id, number, project_id, priority)", slots)


def copy_rows(target: str, rows: Iterable[Sequence[Any]]) -> None:
    """COPY rows into `table (columns)`; the names come from code, never from input."""
    with (
        connection.cursor() as cursor,
        connection.wrap_database_errors,
        cursor.copy(f"COPY {target} FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)


@transaction.atomic
def set_priority(*, task: Task, priority: int) -> None:
    """Move a task's open slots to the back of another priority."""
    Task.objects.filter(pk=task.pk).update(priority=priority)
    task.slots.filter(ranking=None).update(priority=priority, position=NextPosition())


# --- giving slots out ----------------------------------------------------------------------------

_HAD = """(
    (SELECT 1 FROM labeling_ranking ranking
      WHERE ranking.task_id = slot.task_id AND ranking.reviewer_id = %(reviewer)s
        AND ranking.superseded_at IS NULL LIMIT 1) IS NOT NULL
    OR (SELECT 1 FROM labeling_skip skip
      WHERE skip.task_id = slot.task_id AND skip.reviewer_id = %(reviewer)s LIMIT 1) IS NOT NULL
)"""  # scalar subqueries, as the planner cannot turn those into a join over the whole history

_CURSOR = """coalesce((SELECT place.position FROM labeling_queuecursor place
    WHERE place.project_id = %(project)s AND place.reviewer_id = %(reviewer)s
      AND place.priority = band.priority), 0)"""

_FREE = """FROM labeling_slot slot
    WHERE slot.project_id = %(project)s AND slot.reviewer_id IS NULL
      AND slot.priority = band.priority"""

# generate_series feeds a nested loop, so that bands are read from the highest down and no further
# than the first that has something: no lower band is read or locked.
CLAIM = f"""
WITH mine AS (
    UPDATE labeling_slot SET leased_until = now() + %(lease)s
    WHERE project_id = %(project)s AND reviewer_id = %(reviewer)s AND leased_until IS NOT NULL
    RETURNING *
), unfinished AS MATERIALIZED (
    SELECT slot.id FROM labeling_slot slot
    WHERE slot.project_id = %(project)s AND slot.reviewer_id IS NULL
      AND slot.draft_by_id = %(reviewer)s
      AND NOT EXISTS (SELECT FROM mine) AND NOT {_HAD}
    ORDER BY slot.id LIMIT 1 FOR UPDATE OF slot SKIP LOCKED
), open AS MATERIALIZED (
    SELECT band.priority, free.position
    FROM generate_series(9, 0, -1) AS band(priority)
    CROSS JOIN LATERAL (
        SELECT slot.position {_FREE} AND slot.position > {_CURSOR} AND NOT {_HAD}
        ORDER BY slot.position LIMIT 1
    ) free
    WHERE NOT EXISTS (SELECT FROM mine) AND NOT EXISTS (SELECT FROM unfinished)
    LIMIT 1
), fresh AS MATERIALIZED (
    SELECT free.id
    FROM generate_series((SELECT priority FROM open), 0, -1) AS band(priority)
    CROSS JOIN LATERAL (
        SELECT slot.id {_FREE} AND slot.position >= CASE
            WHEN band.priority = (SELECT priority FROM open) THEN (SELECT position FROM open)
            ELSE {_CURSOR} + 1 END
          AND NOT {_HAD}
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
    WHERE NOT EXISTS (SELECT FROM mine) AND NOT EXISTS (SELECT FROM unfinished)
      AND upto.position >= {_CURSOR} + %(step)s
    ON CONFLICT (project_id, reviewer_id, priority)
        DO UPDATE SET position = greatest(place.position, EXCLUDED.position)
), taken AS (
    UPDATE labeling_slot slot SET
        reviewer_id = %(reviewer)s,
        leased_until = now() + %(lease)s,
        shown_order = (
            SELECT array_agg(place.response_id ORDER BY
                md5(concat_ws(':', slot.task_id, %(reviewer)s, place.response_id)))
            FROM labeling_taskresponse place WHERE place.task_id = slot.task_id),
        shown_at = CASE WHEN slot.draft_by_id = %(reviewer)s THEN slot.shown_at END,
        draft = CASE WHEN slot.draft_by_id = %(reviewer)s THEN slot.draft END,
        draft_by_id = CASE WHEN slot.draft_by_id = %(reviewer)s THEN slot.draft_by_id END
    WHERE slot.id = coalesce((SELECT id FROM unfinished), (SELECT id FROM fresh))
    RETURNING slot.*
)
SELECT * FROM mine UNION ALL SELECT * FROM taken
"""  # noqa: S608 - made of constants


def claim(*, project: Project, reviewer: User) -> Slot | None:
    """The reviewer's running lease in the project, renewed; else a new one; else None.

    One statement whose cost does not grow with tasks, rankings or the reviewer's history. When it
    finds nothing, expired leases are freed and, at most once a minute, everything is read again.
    """
    slot = _claim(project, reviewer)
    if slot is None and _uncover(project, reviewer):
        slot = _claim(project, reviewer)
    return slot


def _claim(project: Project, reviewer: User, attempts: int = 3) -> Slot | None:
    """Two claims of one reviewer at once: a constraint stops one, which then finds the other's."""
    lease = timedelta(minutes=project.lease_minutes)
    values = {"project": project.pk, "reviewer": reviewer.pk, "lease": lease, "step": CURSOR_STEP}
    for attempt in range(1, attempts + 1):
        try:
            with transaction.atomic() if connection.in_atomic_block else nullcontext():
                return next(iter(Slot.objects.raw(CLAIM, values)), None)
        except IntegrityError:
            if attempt == attempts:
                raise
    return None


def _uncover(project: Project, reviewer: User) -> bool:
    """Free what expired and, when it is time, forget the cursors; whether anything changed."""
    freed = release_expired(project=project)
    reset = QueueCursor.objects.filter(
        project=project,
        reviewer=reviewer,
        position__gt=0,
        rescanned_at__lt=Now() - RESCAN_AFTER,
    ).update(position=0, rescanned_at=Now())
    return bool(freed or reset)


# --- what a lease can do -------------------------------------------------------------------------


def _leased(slot_id: int, reviewer: User) -> models.QuerySet[Slot]:
    return Slot.objects.filter(pk=slot_id, reviewer=reviewer, leased_until__isnull=False)


def _lease_end() -> models.Subquery:
    minutes = Project.objects.filter(pk=models.OuterRef("project_id")).annotate(
        until=models.ExpressionWrapper(
            Now() + Value(timedelta(minutes=1)) * F("lease_minutes"),
            output_field=models.DateTimeField(),
        )
    )
    return models.Subquery(minutes.values("until"))


def mark_shown(*, slot_id: int, reviewer: User) -> bool:
    """Note when the reviewer first saw it; a slot leased ahead is not seen yet."""
    return bool(_leased(slot_id, reviewer).filter(shown_at=None).update(shown_at=Now()))


def renew(*, slot_id: int, reviewer: User) -> bool:
    """Hold it for another lease; False when it is no longer the reviewer's."""
    return bool(_leased(slot_id, reviewer).update(leased_until=_lease_end()))


def save_draft(*, slot_id: int, reviewer: User, draft: dict[str, Any]) -> bool:
    """Keep the unfinished answer and renew the lease; False when the slot is someone else's.

    A draft outlives its lease as long as nobody else takes the slot.
    """
    if _leased(slot_id, reviewer).update(draft=draft, draft_by=reviewer, leased_until=_lease_end()):
        return True
    lapsed = Slot.objects.filter(pk=slot_id, reviewer=None, draft_by=reviewer)
    return bool(lapsed.update(draft=draft))


_EMPTY: dict[str, Any] = {
    "reviewer": None,
    "leased_until": None,
    "shown_order": None,
    "shown_at": None,
    "draft": None,
    "draft_by": None,
}


def release(*, slot_id: int, reviewer: User) -> bool:
    """Give it back, to the back of the queue, and drop the draft."""
    return bool(_leased(slot_id, reviewer).update(**_EMPTY, position=NextPosition()))


@transaction.atomic
def skip(*, slot_id: int, reviewer: User, reason: str, note: str = "") -> bool:
    """Give it back and never be offered the task again. Raises ValueError for an unknown reason."""
    if reason not in Skip.Reason.values:
        raise ValueError(f"A reason to skip is one of {', '.join(Skip.Reason.values)}.")
    slot = _leased(slot_id, reviewer).select_for_update().first()
    if slot is None:
        return False
    Skip.objects.get_or_create(
        task_id=slot.task_id, reviewer=reviewer, defaults={"reason": reason, "note": note[:500]}
    )
    return release(slot_id=slot_id, reviewer=reviewer)


def release_expired(*, project: Project | None = None) -> int:
    """Free the leases that ran out, and say how many. Unfinished drafts stay with the slot."""
    expired = Slot.objects.filter(leased_until__lt=Now())
    if project is not None:
        expired = expired.filter(project=project)
    freed = 0
    while batch := _free_batch(expired):
        freed += batch
        if batch < EXPIRED_AT_ONCE:
            break
    return freed


@transaction.atomic
def _free_batch(expired: models.QuerySet[Slot]) -> int:
    locked = expired.order_by("leased_until").select_for_update(skip_locked=True)
    ids = list(locked.values_list("pk", flat=True)[:EXPIRED_AT_ONCE])
    if not ids:
        return 0
    nobody = {"reviewer": None, "leased_until": None, "position": NextPosition()}
    slots = Slot.objects.filter(pk__in=ids)
    kept = slots.filter(~Q(draft_by=None)).update(**nobody)
    return kept + slots.filter(draft_by=None, reviewer__isnull=False).update(**{**_EMPTY, **nobody})

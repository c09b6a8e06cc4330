"""Request more rankings of existing tasks, after a preview of the number of slots to add.

A lead chooses the number of rankings per task, regardless of whether tasks are disputed.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from django.db import IntegrityError, connection, transaction

from accounts.models import User, audit
from labeling.models import Project, Task
from labeling.queue.gold_copies import GOLD_COPIES
from labeling.queue.slots import OFF_QUEUE


class CannotRaise(ValueError):  # noqa: N818 - reads better without Error
    """Raised for an invalid request, before anything is written. The message says what is wrong."""


@dataclass(frozen=True)
class RaiseResult:
    """The effect of a request, before or after it is carried out."""

    wanted: int
    tasks: int
    slots: int
    later: int
    """Number of slots that held tasks will get when they are released."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Number of unchanged tasks by reason."""


# `reason` is the first reason that applies.
_TASKS = f"""
SELECT task.id, task.held, task.priority, task.rankings_wanted, slots.count, slots.highest,
    CASE
        WHEN task.kind = 'gold' THEN 'gold'
        WHEN task.kind = 'comparison' THEN 'comparison'
        WHEN task.kind = 'relabel' THEN 'relabel'
        WHEN task.inactive THEN 'withdrawn'
        WHEN task.rankings_wanted >= %(wanted)s AND (task.held OR slots.count >= %(wanted)s)
            THEN 'enough'
        WHEN EXISTS (SELECT FROM labeling_adjudication decision WHERE decision.task_id = task.id)
            THEN 'decided'
        WHEN slots.off_queue OR EXISTS (
            SELECT FROM ({GOLD_COPIES}) copies WHERE copies.task_id = task.id
        ) THEN 'parked'
        ELSE ''
    END AS reason
FROM labeling_task task
CROSS JOIN LATERAL (
    SELECT count(*) AS count, coalesce(max(number), 0) AS highest,
        coalesce(bool_or(ranking_id IS NULL AND priority >= {OFF_QUEUE}), false) AS off_queue
    FROM labeling_slot WHERE task_id = task.id
    OFFSET 0
) slots
WHERE task.project_id = %(project)s AND (%(task)s::bigint IS NULL OR task.id = %(task)s)
"""  # noqa: S608 - made of constants

_COUNT = f"""
SELECT reason, held, count(*), coalesce(sum(greatest(0, %(wanted)s - count)), 0)
FROM ({_TASKS}) tasks GROUP BY reason, held
"""  # noqa: S608 - made of constants

# A task's new slots have consecutive positions at the back of the task's own priority. With a higher
# priority, sequential overlap would take them for slots that it added itself, and remove them once the
# order of the responses is clear.
_RAISE = f"""
WITH raised AS MATERIALIZED ({_TASKS}), updated AS (
    UPDATE labeling_task task SET rankings_wanted = greatest(task.rankings_wanted, %(wanted)s)
    FROM raised WHERE raised.id = task.id AND raised.reason = '' RETURNING task.id
)
INSERT INTO labeling_slot (task_id, number, project_id, priority)
SELECT raised.id, raised.highest + missing.n, %(project)s, raised.priority
FROM raised CROSS JOIN LATERAL generate_series(1, %(wanted)s - raised.count) missing(n)
WHERE raised.reason = '' AND NOT raised.held AND raised.id IN (SELECT id FROM updated)
ORDER BY raised.id, missing.n
"""  # noqa: S608 - made of constants

# All other code that adds slots to a task, or releases a held task, locks the task's row as well.
_LOCK = """
SELECT count(*) FROM (
    SELECT FROM labeling_task
    WHERE project_id = %(project)s AND (%(task)s::bigint IS NULL OR id = %(task)s)
    ORDER BY id FOR NO KEY UPDATE
) locked
"""

REASONS = {
    "withdrawn": "that are inactive",
    "enough": "that already have as many",
    "decided": "decided by a lead",
    "parked": "no longer given out, because gold was made from them",
    "gold": "that are gold",
    "comparison": "that are blind comparisons, with a fixed number of rankings",
    "relabel": "ranked again under another guideline, as often as the original",
}


def plan(*, project: Project, wanted: int, task: Task | None = None) -> RaiseResult:
    """Return the effect of the request on one task, or on all tasks of the project if `task` is None.

    Raises CannotRaise for a number of rankings that the project does not allow.
    """
    _check(project, wanted)
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, _values(project, wanted, task))
        rows = cursor.fetchall()
    raised = [(held, tasks, int(slots)) for reason, held, tasks, slots in rows if not reason]
    left_out = Counter[str]()
    for reason, _held, tasks, _slots in rows:
        if reason:
            left_out[reason] += tasks
    return RaiseResult(
        wanted=wanted,
        tasks=sum(tasks for _held, tasks, _slots in raised),
        slots=sum(slots for held, _tasks, slots in raised if not held),
        later=sum(slots for held, _tasks, slots in raised if held),
        left_out=left_out,
    )


def apply(
    *,
    project: Project,
    wanted: int,
    by: User | None,
    task: Task | None = None,
    expected: int | None = None,
) -> RaiseResult:
    """Add the slots and return the result. Calling this again adds no more slots.

    `expected` is the number of slots that the preview showed. Raises CannotRaise if a different number
    would now be added, or if the project does not allow this number of rankings.
    """
    try:
        return _apply(project, wanted, by, task, expected)
    except IntegrityError:  # another transaction added a slot at the same moment
        return _apply(project, wanted, by, task, expected)


@transaction.atomic
def _apply(
    project: Project, wanted: int, by: User | None, task: Task | None, expected: int | None
) -> RaiseResult:
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, _values(project, wanted, task))
    planned = plan(project=project, wanted=wanted, task=task)
    if expected is not None and expected != planned.slots:
        raise CannotRaise(
            f"Nothing was requested: the number of additional rankings is now {planned.slots} instead "
            f"of {expected}. Check the numbers again, then confirm."
        )
    with connection.cursor() as cursor:
        cursor.execute(_RAISE, _values(project, wanted, task))
        added = cursor.rowcount
    if planned.tasks:
        subject = task or project
        audit(by, "rankings raised", subject, wanted=wanted, tasks=planned.tasks, slots=added)
    return RaiseResult(wanted, planned.tasks, added, planned.later, planned.left_out)


def _check(project: Project, wanted: int) -> None:
    if not 1 <= wanted <= 9:
        raise CannotRaise(f"A task can have 1 to 9 rankings, not {wanted}.")
    sequential = project.overlap == Project.Overlap.SEQUENTIAL
    if sequential and wanted > project.rankings_at_most:
        raise CannotRaise(
            f"With sequential overlap a task gets at most {project.rankings_at_most} rankings. "
            "Raise the maximum in the settings first."
        )


def _values(project: Project, wanted: int, task: Task | None) -> dict[str, Any]:
    return {"project": project.pk, "wanted": wanted, "task": task.pk if task else None}

"""Reorder the waiting tasks of a project within their priorities.

The reordered tasks exchange positions only among themselves, so the other tasks keep theirs. Priorities
are set by people and are not changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection, transaction

from labeling.models import Project, QueueCursor
from labeling.queue.slots import OFF_QUEUE


@dataclass(frozen=True)
class Waiting:
    """A task that nobody has started."""

    task_id: int
    prompt_id: int
    prompt_hash: str
    priority: int
    position: int


_WAITING = """
SELECT task.id, task.prompt_id, prompt.content_hash, slot.priority, min(slot.position) AS position
FROM labeling_slot slot
JOIN labeling_task task ON task.id = slot.task_id AND task.priority = slot.priority
JOIN labeling_prompt prompt ON prompt.id = task.prompt_id
WHERE slot.project_id = %(project)s AND slot.reviewer_id IS NULL AND slot.priority < %(off)s
  AND task.kind = 'ranking'
  AND NOT EXISTS (SELECT FROM labeling_slot begun
    WHERE begun.task_id = task.id AND (begun.reviewer_id IS NOT NULL OR begun.draft_by_id IS NOT NULL))
  AND NOT EXISTS (SELECT FROM labeling_ranking ranking
    WHERE ranking.task_id = task.id AND ranking.superseded_at IS NULL)
GROUP BY task.id, prompt.content_hash, slot.priority
ORDER BY slot.priority DESC, position
LIMIT %(most)s
"""


def waiting(*, project: Project, most: int) -> list[Waiting]:
    """Return up to `most` ranking tasks that nobody has ranked, leased or started, in queue order.

    The query reads all free slots of the project.
    """
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, {"project": project.pk, "off": OFF_QUEUE, "most": most})
        return [Waiting(*row) for row in cursor.fetchall()]


_REARRANGE = """
WITH wanted AS (
    SELECT * FROM unnest(%(tasks)s::bigint[]) WITH ORDINALITY AS wanted(task_id, rank)
), free AS MATERIALIZED (
    SELECT slot.id, slot.priority, slot.position, slot.number, wanted.rank
    FROM labeling_slot slot JOIN wanted ON wanted.task_id = slot.task_id
    WHERE slot.project_id = %(project)s AND slot.reviewer_id IS NULL AND slot.priority < %(off)s
    FOR UPDATE OF slot SKIP LOCKED
), moves AS (
    SELECT ordered.id, available.position
    FROM (SELECT id, priority,
        row_number() OVER (PARTITION BY priority ORDER BY rank, number) AS n FROM free) ordered
    JOIN (SELECT priority, position,
        row_number() OVER (PARTITION BY priority ORDER BY position) AS n FROM free) available
      ON available.priority = ordered.priority AND available.n = ordered.n
), moved AS (
    UPDATE labeling_slot slot SET position = moves.position
    FROM moves WHERE moves.id = slot.id AND slot.position <> moves.position
    RETURNING slot.task_id
)
SELECT count(DISTINCT task_id) FROM moved
"""


@transaction.atomic
def rearrange(*, project: Project, task_ids: Sequence[int]) -> int:
    """Put the tasks into this order within each priority; return the number of tasks that moved.

    Only free slots move. Slots that are being claimed are skipped, so that no claim waits. All of the
    project's cursors are reset, because tasks may have moved to positions that a cursor has passed.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _REARRANGE, {"project": project.pk, "tasks": list(task_ids), "off": OFF_QUEUE}
        )
        moved = int(cursor.fetchone()[0])
    if moved:
        _reset_cursors(project)
        # Reset again after the commit: a claim that started before it may have advanced a cursor since.
        transaction.on_commit(lambda: _reset_cursors(project))
    return moved


def _reset_cursors(project: Project) -> None:
    QueueCursor.objects.filter(project=project, position__gt=0).update(position=0)

"""The order in which waiting tasks of one priority are given out, changed without changing anything else.

Tasks exchange places: together they stand where they stood, so what is not among them keeps its own
place, and comes up as often between them as it did before. A priority says what a person decided,
and stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection, transaction

from labeling.models import Project, QueueCursor
from labeling.queue.slots import OFF_QUEUE


@dataclass(frozen=True)
class Waiting:
    """A task nobody has begun."""

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
    """Ranking tasks that nobody has ranked, holds or has begun, in the order of the queue.

    One query, over all free slots of the project.
    """
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, {"project": project.pk, "off": OFF_QUEUE, "most": most})
        return [Waiting(*row) for row in cursor.fetchall()]


_REARRANGE = """
WITH wanted AS (
    SELECT * FROM unnest(%(tasks)s::bigint[]) WITH ORDINALITY AS wanted(task_id, place)
), free AS MATERIALIZED (
    SELECT slot.id, slot.priority, slot.position, slot.number, wanted.place
    FROM labeling_slot slot JOIN wanted ON wanted.task_id = slot.task_id
    WHERE slot.project_id = %(project)s AND slot.reviewer_id IS NULL AND slot.priority < %(off)s
    FOR UPDATE OF slot SKIP LOCKED
), moves AS (
    SELECT goes.id, stands.position
    FROM (SELECT id, priority,
        row_number() OVER (PARTITION BY priority ORDER BY place, number) AS n FROM free) goes
    JOIN (SELECT priority, position,
        row_number() OVER (PARTITION BY priority ORDER BY position) AS n FROM free) stands
      ON stands.priority = goes.priority AND stands.n = goes.n
), moved AS (
    UPDATE labeling_slot slot SET position = moves.position
    FROM moves WHERE moves.id = slot.id AND slot.position <> moves.position
    RETURNING slot.task_id
)
SELECT count(DISTINCT task_id) FROM moved
"""


@transaction.atomic
def rearrange(*, project: Project, task_ids: Sequence[int]) -> int:
    """Let these tasks' free slots change places so that the tasks come in this order within each
    priority; how many moved.

    One statement over these tasks. A slot that someone is just claiming stays out of it, and nobody
    waits. All cursors start over, since what lay behind them may be new to a reviewer now.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _REARRANGE, {"project": project.pk, "tasks": list(task_ids), "off": OFF_QUEUE}
        )
        moved = int(cursor.fetchone()[0])
    if moved:
        _start_over(project)
        # Again, for a claim that began before the commit and wrote its cursor meanwhile.
        transaction.on_commit(lambda: _start_over(project))
    return moved


def _start_over(project: Project) -> None:
    QueueCursor.objects.filter(project=project, position__gt=0).update(position=0)

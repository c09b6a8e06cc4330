"""When a reviewer gets gold among real work: as often as the project asks, never in clusters.

From one gold task to the next is a gap drawn evenly around the mean, from half of it to one and a
half times (nearer where gold is frequent: there are never two in a row), so that nobody can count
it out. It is drawn by a hash of the reviewer and of the gold before, so that asking twice gives the
same answer and the tasks left can be counted exactly.
"""

import hashlib
from dataclasses import dataclass
from math import ceil, floor

from django.db import connection

from accounts.models import User
from labeling.models import Project

LOOKED_BACK = 1000


def _even(*parts: object) -> float:
    """The same number for the same parts, evenly from 0 to below 1."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def gap(*, percent: int, project_id: int, reviewer_id: int, task_id: int) -> int:
    """How many tasks after this gold task the next one comes, 2 at least; its mean is 100 / percent.

    `task_id` is 0 before the first.
    """
    parts, mean = (project_id, reviewer_id, task_id), 100 / percent
    spread = min(mean / 2, mean - 2)
    drawn = mean + spread * (2 * _even(*parts, "where") - 1)
    return floor(drawn + _even(*parts, "rounding"))


@dataclass(frozen=True)
class Stand:
    """Where a reviewer stands: the gold task they had last (0: none) and real tasks since."""

    last: int
    since: int


# Newest first through ranking_history, no further than the reviewer's last LOOKED_BACK rankings.
# What they hold comes before everything they sent, and the slot ahead before the current one.
_SINCE = """
SELECT had.task_id, had.purpose FROM (
    (SELECT slot.task_id, gold.purpose, slot.ahead, NULL::bigint AS ranking
       FROM labeling_slot slot
       LEFT JOIN labeling_gold gold ON gold.task_id = slot.task_id
      WHERE slot.project_id = %(project)s AND slot.reviewer_id = %(reviewer)s
        AND slot.leased_until IS NOT NULL)
    UNION ALL
    (SELECT ranking.task_id, gold.purpose, false, ranking.id
       FROM (SELECT id, task_id, supersedes_id FROM labeling_ranking
              WHERE reviewer_id = %(reviewer)s ORDER BY id DESC LIMIT %(looked_back)s) ranking
       JOIN labeling_task task ON task.id = ranking.task_id
       LEFT JOIN labeling_gold gold ON gold.task_id = ranking.task_id
      WHERE task.project_id = %(project)s AND ranking.supersedes_id IS NULL
      ORDER BY ranking.id DESC LIMIT %(longest)s)
) had
WHERE had.purpose IS NULL OR had.purpose = 'check'
ORDER BY had.ahead DESC, had.ranking DESC NULLS FIRST
"""

# Scalar subqueries, as in labeling.queue.slots: no plan may begin with the reviewer's whole history.
_REMAINING = """
SELECT gold.task_id FROM labeling_gold gold
JOIN labeling_task task ON task.id = gold.task_id
WHERE gold.project_id = %(project)s AND gold.purpose = 'check' AND gold.retired_at IS NULL
  AND NOT task.held AND NOT task.out_of_use
  AND (SELECT 1 FROM labeling_task same
         JOIN labeling_ranking ranking ON ranking.task_id = same.id
        WHERE same.prompt_id = task.prompt_id AND ranking.reviewer_id = %(reviewer)s
        LIMIT 1) IS NULL
  AND (SELECT 1 FROM labeling_task same
         JOIN labeling_skip skip ON skip.task_id = same.id
        WHERE same.prompt_id = task.prompt_id AND skip.reviewer_id = %(reviewer)s
        LIMIT 1) IS NULL
  AND (SELECT 1 FROM labeling_task same
         JOIN labeling_slot slot ON slot.task_id = same.id
        WHERE same.prompt_id = task.prompt_id AND slot.reviewer_id = %(reviewer)s
        LIMIT 1) IS NULL
"""


def stand(project: Project, reviewer: User) -> Stand:
    """One query, bounded by the longest gap."""
    longest = 2 * ceil(100 / project.gold_percent)
    values = {
        "project": project.pk,
        "reviewer": reviewer.pk,
        "looked_back": LOOKED_BACK,
        "longest": longest,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SINCE, values)
        rows = cursor.fetchall()
    since: set[int] = set()
    for task_id, purpose in rows:
        if purpose:
            return Stand(task_id, len(since))
        since.add(task_id)  # once, also when it was taken back and sent again
    return Stand(0, len(since))


def remaining(project: Project, reviewer: User) -> list[int]:
    """Gold tasks they can still get, in an order of their own. Costs by the project's gold alone.

    Anyone who ranked, skipped or holds a task of the same prompt would recognise it.
    """
    with connection.cursor() as cursor:
        cursor.execute(_REMAINING, {"project": project.pk, "reviewer": reviewer.pk})
        tasks = [task_id for (task_id,) in cursor.fetchall()]
    return sorted(tasks, key=lambda task_id: _even(project.pk, reviewer.pk, task_id, "order"))


def due(project: Project, reviewer: User) -> int | None:
    """The gold task to give next, now; None when real work is next."""
    if not project.gold_percent or _until_next(project, reviewer, stand(project, reviewer)) > 0:
        return None
    return next(iter(remaining(project, reviewer)), None)


def _until_next(project: Project, reviewer: User, at: Stand) -> int:
    """How many real tasks come first."""
    return max(0, _gap(project, reviewer, at.last) - 1 - at.since)


def _gap(project: Project, reviewer: User, task_id: int) -> int:
    return gap(
        percent=project.gold_percent,
        project_id=project.pk,
        reviewer_id=reviewer.pk,
        task_id=task_id,
    )


def upcoming(project: Project, reviewer: User, waiting: int) -> int:
    """How many gold tasks will come among the real ones that wait, beyond what they hold.

    Counted with the rest, they let what is left go down by one at every task, gold or not.
    """
    if not project.gold_percent:
        return 0
    before = _until_next(project, reviewer, stand(project, reviewer))
    count = 0
    for task_id in remaining(project, reviewer):
        if before > waiting:
            break
        count += 1
        before += _gap(project, reviewer, task_id) - 1
    return count

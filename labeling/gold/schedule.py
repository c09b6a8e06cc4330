"""The schedule that places gold among a reviewer's real tasks, as often as the project's setting says.

The gap between two gold tasks is drawn uniformly from 0.5 to 1.5 times its mean, so that reviewers
cannot predict it. If gold is frequent, the range is narrower, so that two gold tasks never follow each
other. The gap is derived from a hash of the reviewer and the previous gold task. It is therefore
reproducible, and the number of remaining tasks can be computed exactly.
"""

import hashlib
from dataclasses import dataclass
from math import ceil, floor

from django.db import connection

from accounts.models import User
from labeling.models import Project

MAX_LOOKBACK = 1000


def _uniform(*parts: object) -> float:
    """Return a number from 0 to below 1 that depends only on `parts` and is uniform over them."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def gap(*, percent: int, project_id: int, reviewer_id: int, task_id: int) -> int:
    """Return the number of tasks from this gold task to the next: at least 2, on average 100 / percent.

    `task_id` is the id of this gold task, or 0 before the first one.
    """
    parts, mean = (project_id, reviewer_id, task_id), 100 / percent
    spread = min(mean / 2, mean - 2)
    drawn = mean + spread * (2 * _uniform(*parts, "where") - 1)
    return floor(drawn + _uniform(*parts, "rounding"))


@dataclass(frozen=True)
class Progress:
    """The id of the reviewer's last gold task, or 0, and the number of real tasks since then."""

    last: int
    since: int


# Reads at most the reviewer's last MAX_LOOKBACK rankings, newest first, from the index ranking_history.
# Leased tasks count as newer than all rankings, and the lease ahead as newer than the current lease.
_SINCE = """
SELECT recent.task_id, recent.purpose FROM (
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
) recent
WHERE recent.purpose IS NULL OR recent.purpose = 'check'
ORDER BY recent.ahead DESC, recent.ranking DESC NULLS FIRST
"""

# These are scalar subqueries, as in labeling.queue.claims, so that the planner does not read the
# reviewer's whole history.
_REMAINING = """
SELECT gold.task_id FROM labeling_gold gold
JOIN labeling_task task ON task.id = gold.task_id
WHERE gold.project_id = %(project)s AND gold.purpose = 'check' AND gold.retired_at IS NULL
  AND NOT task.held AND NOT task.inactive
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


def progress(project: Project, reviewer: User) -> Progress:
    """Return the reviewer's last gold task and the number of real tasks since then. Costs one query."""
    longest = 2 * ceil(100 / project.gold_percent)
    values = {
        "project": project.pk,
        "reviewer": reviewer.pk,
        "looked_back": MAX_LOOKBACK,
        "longest": longest,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SINCE, values)
        rows = cursor.fetchall()
    since: set[int] = set()
    for task_id, purpose in rows:
        if purpose:
            return Progress(task_id, len(since))
        since.add(task_id)  # a set, because a ranking may be undone and sent again
    return Progress(0, len(since))


def remaining(project: Project, reviewer: User) -> list[int]:
    """Return the gold tasks that the reviewer can still get, in an order that depends on the reviewer.

    Tasks whose prompt is known to the reviewer from a ranked, skipped or leased task are left out.
    Costs one query, whose time depends only on the number of gold tasks in the project.
    """
    with connection.cursor() as cursor:
        cursor.execute(_REMAINING, {"project": project.pk, "reviewer": reviewer.pk})
        tasks = [task_id for (task_id,) in cursor.fetchall()]
    return sorted(tasks, key=lambda task_id: _uniform(project.pk, reviewer.pk, task_id, "order"))


def due(project: Project, reviewer: User) -> int | None:
    """Return the id of the gold task to give to the reviewer now, or None if a real task is next."""
    if not project.gold_percent or _until_next(project, reviewer, progress(project, reviewer)) > 0:
        return None
    return next(iter(remaining(project, reviewer)), None)


def _until_next(project: Project, reviewer: User, at: Progress) -> int:
    """Return the number of real tasks before the next gold task."""
    return max(0, _gap(project, reviewer, at.last) - 1 - at.since)


def _gap(project: Project, reviewer: User, task_id: int) -> int:
    return gap(
        percent=project.gold_percent,
        project_id=project.pk,
        reviewer_id=reviewer.pk,
        task_id=task_id,
    )


def upcoming(project: Project, reviewer: User, waiting: int) -> int:
    """Return the number of gold tasks among the next `waiting` real tasks, not counting leased gold.

    A page adds this to the number of remaining tasks, so that their sum decreases by one with every task.
    """
    if not project.gold_percent:
        return 0
    before = _until_next(project, reviewer, progress(project, reviewer))
    count = 0
    for task_id in remaining(project, reviewer):
        if before > waiting:
            break
        count += 1
        before += _gap(project, reviewer, task_id) - 1
    return count

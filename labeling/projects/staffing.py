"""Check whether a project has enough members to make the rankings that its tasks still need."""

from dataclasses import dataclass
from typing import Any

from django.db import connection

from accounts.models import User
from labeling.core.counts import cached_if_large
from labeling.gold import qualification
from labeling.models import Membership, Project, Task
from labeling.queue.slots import OFF_QUEUE

MAX_COUNT = 1000


def able_to_review(project: Project) -> set[int]:
    """Return the ids of active members who may rank, which excludes those who failed a qualification."""
    members = Membership.objects.filter(project=project, user__is_active=True)
    able = set(members.filter(user__simulated=False).values_list("user", flat=True))
    if project.qualification_percent:
        attempts = qualification.newest_attempts(project)
        able -= {
            attempt.reviewer_id for attempt in attempts if attempt.state == qualification.FAILED
        }
    return able


@dataclass(frozen=True)
class Shortage:
    """The tasks that need more rankings than the members of the project can still make."""

    tasks: int
    reviewers: int
    """Number of additional reviewers needed: the most that any of these tasks lacks."""
    open_tasks: int


# Compares the number of a task's open slots with the number of people who have neither ranked nor
# skipped it.
_SHORTAGE = """
WITH open_tasks AS (
    SELECT task_id, count(*) AS slots FROM labeling_slot
    WHERE project_id = %(project)s AND ranking_id IS NULL AND priority < %(off_queue)s
    GROUP BY task_id
), previous AS (
    SELECT task_id, count(*) AS people FROM (
        SELECT ranking.task_id, ranking.reviewer_id FROM labeling_ranking ranking
        JOIN open_tasks ON open_tasks.task_id = ranking.task_id
        WHERE ranking.superseded_at IS NULL AND ranking.reviewer_id = ANY(%(able)s::bigint[])
        UNION
        SELECT skip.task_id, skip.reviewer_id FROM labeling_skip skip
        JOIN open_tasks ON open_tasks.task_id = skip.task_id
        WHERE skip.reviewer_id = ANY(%(able)s::bigint[])
    ) pairs GROUP BY task_id
), shortfalls AS (
    SELECT open_tasks.slots - (cardinality(%(able)s::bigint[]) - coalesce(previous.people, 0)) AS missing
    FROM open_tasks LEFT JOIN previous ON previous.task_id = open_tasks.task_id
)
SELECT count(*) FILTER (WHERE missing > 0), coalesce(max(missing), 0), count(*) FROM shortfalls
"""


def _open_tasks(shortage: Shortage) -> int:
    return shortage.open_tasks


@cached_if_large(_open_tasks)
def shortage(project: Project) -> Shortage:
    """Return the shortage of reviewers. Costs two queries, or three with a qualification.

    The result for a large project may be some minutes old; see labeling.core.counts.
    """
    values = {
        "project": project.pk,
        "off_queue": OFF_QUEUE,
        "able": sorted(able_to_review(project)),
    }
    tasks, missing, open_tasks = _row(_SHORTAGE, values)
    return Shortage(tasks, max(0, missing), open_tasks)


@dataclass(frozen=True)
class NothingLeft:
    """Why a reviewer gets no task, as numbers of tasks, each at most MAX_COUNT."""

    reserved: int
    """Tasks that the reviewer could rank but that are leased to others."""
    for_others: int
    """Tasks with a free slot that the reviewer has already ranked or skipped."""
    held: int
    """Tasks that a lead must check first."""
    any_tasks: bool


_NOTHING_LEFT = """
SELECT
    (SELECT count(*) FROM (
        SELECT DISTINCT slot.task_id FROM labeling_slot slot
        WHERE slot.project_id = %(project)s AND slot.leased_until IS NOT NULL
          AND slot.reviewer_id <> %(reviewer)s AND slot.priority < %(off_queue)s
          AND NOT EXISTS (SELECT FROM labeling_ranking ranking
              WHERE ranking.task_id = slot.task_id AND ranking.reviewer_id = %(reviewer)s
                AND ranking.superseded_at IS NULL)
          AND NOT EXISTS (SELECT FROM labeling_skip skip
              WHERE skip.task_id = slot.task_id AND skip.reviewer_id = %(reviewer)s)
        LIMIT %(limit)s) reserved),
    (SELECT count(*) FROM (
        SELECT DISTINCT slot.task_id FROM labeling_slot slot
        WHERE slot.project_id = %(project)s AND slot.reviewer_id IS NULL
          AND slot.priority < %(off_queue)s
        LIMIT %(limit)s) free)
"""


def nothing_left(project: Project, reviewer: User) -> NothingLeft:
    """Return why a reviewer gets no task. Costs three queries, so call it only if there is no task."""
    values = {
        "project": project.pk,
        "reviewer": reviewer.pk,
        "off_queue": OFF_QUEUE,
        "limit": MAX_COUNT,
    }
    reserved, for_others = _row(_NOTHING_LEFT, values)
    tasks = Task.objects.filter(project=project, inactive=False).exclude(kind=Task.Kind.GOLD)
    held = tasks.filter(held=True)[:MAX_COUNT].count()
    return NothingLeft(reserved, for_others, held, tasks.exists())


def _row(sql: str, values: dict[str, Any]) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        row: tuple[Any, ...] = cursor.fetchone()
    return row

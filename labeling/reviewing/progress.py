"""The progress of projects and reviewers, counted in SQL up to a limit."""

from dataclasses import dataclass, replace
from datetime import date, datetime
from threading import Lock
from typing import Any

from cachetools import TTLCache
from django.db import connection
from django.db.models import Avg, Count, Max, Q
from django.utils import timezone
from psycopg.types.numeric import Int8

from accounts.models import User
from database import clock
from database.statements import fetch
from labeling.core.counts import cached_if_large, is_large
from labeling.gold import schedule
from labeling.models import Gold, Project, Ranking, Skip, Slot, Task
from labeling.queue.slots import OFF_QUEUE

MAX_COUNT = 1000

# Reads a limited number of free slots per priority, starting at the reviewer's cursors. The subqueries
# are scalar for the reason given in labeling.queue.claims.
_WAITING = """
SELECT count(DISTINCT open.task_id) FILTER (WHERE
        (SELECT 1 FROM labeling_ranking ranking WHERE ranking.task_id = open.task_id
            AND ranking.reviewer_id = %(reviewer)s AND ranking.superseded_at IS NULL
            LIMIT 1) IS NULL
        AND (SELECT 1 FROM labeling_skip skip WHERE skip.task_id = open.task_id
            AND skip.reviewer_id = %(reviewer)s LIMIT 1) IS NULL
        AND (SELECT 1 FROM labeling_slot mine WHERE mine.task_id = open.task_id
            AND mine.reviewer_id = %(reviewer)s LIMIT 1) IS NULL),
    count(*)
FROM generate_series(9, 0, -1) AS band(priority)
CROSS JOIN LATERAL (
    SELECT slot.task_id FROM labeling_slot slot
    WHERE slot.project_id = %(project)s AND slot.reviewer_id IS NULL
      AND slot.priority = band.priority
      AND slot.position > coalesce((SELECT place.position FROM labeling_queuecursor place
          WHERE place.project_id = %(project)s AND place.reviewer_id = %(reviewer)s
            AND place.priority = band.priority), 0)
    ORDER BY slot.position LIMIT %(limit)s
) open
"""


@dataclass(frozen=True)
class ReviewerProgress:
    today: int
    waiting: int
    capped: bool
    minutes: int | None
    """Minutes that the waiting tasks take at the reviewer's pace, or None if the pace is unknown."""

    def after(self, rankings: int) -> "ReviewerProgress":
        """Return the progress after this many more rankings, if other reviewers change nothing."""
        waiting = max(0, self.waiting - rankings)
        minutes = self.minutes
        if minutes is not None and self.waiting:
            minutes = max(1, round(minutes * waiting / self.waiting))
        return replace(self, today=self.today + rankings, waiting=waiting, minutes=minutes)


CACHE_SECONDS = 30


@dataclass
class CachedProgress:
    """A full count, the number of rankings since then, and the id of the newest ranking."""

    progress: ReviewerProgress
    since: int
    newest: int


Key = tuple[int, int, str, date]
_counts: TTLCache[Key, CachedProgress] = TTLCache(maxsize=2000, ttl=CACHE_SECONDS)
_lock = Lock()  # cachetools' caches are not thread-safe

_SINCE = """
SELECT count(*) FILTER (WHERE
    (SELECT task.project_id FROM labeling_task task WHERE task.id = ranking.task_id) = %(project)s
    AND (SELECT 1 FROM labeling_gold gold WHERE gold.task_id = ranking.task_id
        AND gold.purpose <> 'check' LIMIT 1) IS NULL)
FROM labeling_ranking ranking
WHERE ranking.reviewer_id = %(reviewer)s AND ranking.id > %(newest)s
  AND ranking.superseded_at IS NULL AND ranking.supersedes_id IS NULL
  AND ranking.source = 'review'
"""
"""SQL for the number of rankings since a count. Revisions are left out, as they were already counted."""


def _key(project: Project, reviewer: User) -> Key:
    """Return the cache key. It includes the day and the time zone, because "today" depends on both."""
    zone = timezone.get_current_timezone_name()
    return project.pk, reviewer.pk, zone, timezone.localdate()


def after_ranking(project: Project, reviewer: User, ranking: Ranking) -> ReviewerProgress:
    """Return the reviewer's progress after this ranking, based on a count at most CACHE_SECONDS old.

    Costs one short query, or five if there is no such count. Changes by other reviewers, and undone
    rankings in other processes, are included only in the next full count.
    """
    key = _key(project, reviewer)
    with _lock:
        counted = _counts.get(key)
    if counted is None:
        progress = of_reviewer(project, reviewer)
        with _lock:
            _counts[key] = CachedProgress(progress, 0, ranking.pk)
        return progress
    since, newest = counted.since, counted.newest
    values = {"project": project.pk, "reviewer": reviewer.pk, "newest": Int8(newest)}
    since += fetch(_SINCE, values)[0][0]
    # The count is changed in place, because storing it again would extend its time in the cache.
    counted.since, counted.newest = since, max(newest, ranking.pk)
    return counted.progress.after(since)


def forget(project: Project, reviewer: User) -> None:
    """Remove the reviewer's count from this process's cache, after an undo."""
    with _lock:
        _counts.pop(_key(project, reviewer), None)


def of_reviewer(project: Project, reviewer: User) -> ReviewerProgress:
    """Return the number of rankings made today and of tasks waiting. Costs four queries.

    Gold checks are counted like real tasks, because the numbers would otherwise reveal them. This costs
    two more queries.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _WAITING,
            {"project": project.pk, "reviewer": reviewer.pk, "limit": MAX_COUNT},
        )
        tasks, slots = cursor.fetchone()
    held = Slot.objects.filter(
        project=project, reviewer=reviewer, leased_until__isnull=False
    ).count()
    waiting = tasks + held + schedule.upcoming(project, reviewer, tasks)
    seconds = pace(project, reviewer)
    return ReviewerProgress(
        today=done_today(project, reviewer),
        waiting=waiting,
        capped=slots >= MAX_COUNT,
        minutes=None if seconds is None else max(1, round(seconds * waiting / 60)),
    )


_PACE = """
SELECT count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY recent.active_seconds)
FROM (
    SELECT task_id, active_seconds FROM labeling_ranking
    WHERE reviewer_id = %(reviewer)s AND source = 'review' AND active_seconds > 0
    ORDER BY id DESC LIMIT %(limit)s
) recent JOIN labeling_task task ON task.id = recent.task_id AND task.project_id = %(project)s
"""
PACE_FROM = 50
PACE_NEEDS = 3


def pace(project: Project, reviewer: User) -> float | None:
    """Return the median active seconds of the reviewer's newest rankings, or None if there are too few."""
    with connection.cursor() as cursor:
        cursor.execute(_PACE, {"project": project.pk, "reviewer": reviewer.pk, "limit": PACE_FROM})
        count, median = cursor.fetchone()
    return median if count >= PACE_NEEDS else None


def done_today(project: Project, reviewer: User) -> int:
    """Return the number of rankings made today, without training and qualification.

    Gold checks are counted, because the number would otherwise reveal them.
    """
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    newest = Ranking.objects.filter(reviewer=reviewer).order_by("-id")[:MAX_COUNT]
    ranked = Ranking.objects.filter(
        pk__in=newest.values("pk"),
        created_at__gte=midnight,
        superseded_at=None,
        source=Ranking.Source.REVIEW,
        task__project=project,
    )
    before_real_work = [Gold.Purpose.TRAINING, Gold.Purpose.QUALIFICATION]
    return ranked.exclude(task__gold__purpose__in=before_real_work).count()


@dataclass(frozen=True)
class ProjectProgress:
    tasks: int
    slots: int
    filled: int
    leased: int

    @property
    def percent(self) -> int:
        return round(100 * self.filled / self.slots) if self.slots else 0


def _slots(progress: ProjectProgress) -> int:
    return progress.slots


@cached_if_large(_slots)
def of_project(project: Project) -> ProjectProgress:
    """Return the progress of the whole project, without gold.

    The numbers of a large project may be some minutes old; see labeling.core.counts. Counting 100,000
    tasks takes tens of milliseconds.
    """
    slots = Slot.objects.filter(project=project, priority__lt=OFF_QUEUE).aggregate(
        all=Count("pk"),
        filled=Count("pk", filter=Q(ranking__isnull=False)),
        leased=Count("pk", filter=Q(leased_until__gt=clock.now())),
    )
    return ProjectProgress(
        tasks=Task.objects.filter(project=project, inactive=False)
        .exclude(kind=Task.Kind.GOLD)
        .count(),
        slots=slots["all"],
        filled=slots["filled"],
        leased=slots["leased"],
    )


@dataclass(frozen=True)
class ReviewerRow:
    username: str
    is_program: bool
    rankings: int
    simulated: int
    imported: int
    seconds: float | None
    skips: int
    newest: datetime | None


MAX_ROWS = 100


def _rankings(rows: list[ReviewerRow]) -> int:
    return sum(row.rankings for row in rows)


@cached_if_large(_rankings)
def by_reviewer(project: Project) -> list[ReviewerRow]:
    """Return the reviewers with the most current rankings, not counting answers to gold.

    This reads every ranking of the project. The numbers of a large project may be some minutes old; see
    labeling.core.counts.
    """
    rows: Any = (
        Ranking.objects.filter(task__project=project, task__inactive=False, superseded_at=None)
        .exclude(task__kind=Task.Kind.GOLD)
        .values("reviewer", "reviewer__username", "reviewer__simulated")
        .annotate(
            rankings=Count("pk"),
            simulated=Count("pk", filter=Q(source=Ranking.Source.SIMULATION)),
            imported=Count("pk", filter=Q(source=Ranking.Source.IMPORT)),
            seconds=Avg("active_seconds", filter=Q(active_seconds__gt=0)),
            newest=Max("created_at"),
        )
        .order_by("-rankings", "reviewer__username")[:MAX_ROWS]
    )
    skips = dict(
        Skip.objects.filter(task__project=project, task__inactive=False)
        .values("reviewer")
        .annotate(count=Count("pk"))
        .values_list("reviewer", "count")
    )
    return [
        ReviewerRow(
            row["reviewer__username"],
            row["reviewer__simulated"],
            row["rankings"],
            row["simulated"],
            row["imported"],
            row["seconds"],
            skips.get(row["reviewer"], 0),
            row["newest"],
        )
        for row in rows
    ]


def count_large_projects() -> int:
    """Update the cached counts of large projects, and return the number of these projects."""
    large = [project for project in Project.objects.filter(archived_at=None) if is_large(project)]
    for project in large:
        of_project.recount(project)
        by_reviewer.recount(project)
    return len(large)

"""How far a project and a reviewer have come. Counts are derived in SQL, and bounded."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import Avg, Count, Max, Q
from django.utils import timezone

from accounts.models import User
from labeling.models import Project, Ranking, Skip, Slot, Task

COUNTED_AT_MOST = 1000

# Behind the cursors lie only tasks the reviewer had, so the scan does not grow with their history.
_WAITING = """
SELECT count(DISTINCT open.task_id), count(*) FROM (
    SELECT slot.task_id FROM labeling_slot slot
    LEFT JOIN labeling_queuecursor place ON place.project_id = slot.project_id
        AND place.reviewer_id = %(reviewer)s AND place.priority = slot.priority
    WHERE slot.project_id = %(project)s AND slot.reviewer_id IS NULL
      AND slot.position > coalesce(place.position, 0)
      AND NOT EXISTS (SELECT FROM labeling_ranking ranking WHERE ranking.task_id = slot.task_id
          AND ranking.reviewer_id = %(reviewer)s AND ranking.superseded_at IS NULL)
      AND NOT EXISTS (SELECT FROM labeling_skip skip WHERE skip.task_id = slot.task_id
          AND skip.reviewer_id = %(reviewer)s)
      AND NOT EXISTS (SELECT FROM labeling_slot mine WHERE mine.task_id = slot.task_id
          AND mine.reviewer_id = %(reviewer)s)
    LIMIT %(limit)s
) open
"""


@dataclass(frozen=True)
class ReviewerProgress:
    today: int
    waiting: int
    capped: bool


def of_reviewer(project: Project, reviewer: User) -> ReviewerProgress:
    """What they ranked today and how many tasks wait for them. Three queries, each bounded."""
    with connection.cursor() as cursor:
        cursor.execute(
            _WAITING,
            {"project": project.pk, "reviewer": reviewer.pk, "limit": COUNTED_AT_MOST},
        )
        tasks, slots = cursor.fetchone()
    held = Slot.objects.filter(
        project=project, reviewer=reviewer, leased_until__isnull=False
    ).count()
    return ReviewerProgress(done_today(project, reviewer), tasks + held, slots >= COUNTED_AT_MOST)


def done_today(project: Project, reviewer: User) -> int:
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    newest = Ranking.objects.filter(
        reviewer=reviewer, task__project=project, superseded_at=None
    ).order_by("-id")[:COUNTED_AT_MOST]
    return Ranking.objects.filter(
        pk__in=newest.values("pk"), created_at__gte=midnight, source=Ranking.Source.REVIEW
    ).count()


@dataclass(frozen=True)
class ProjectProgress:
    tasks: int
    slots: int
    filled: int
    leased: int
    rankings: int
    simulated: int
    imported: int

    @property
    def percent(self) -> int:
        return round(100 * self.filled / self.slots) if self.slots else 0


def of_project(project: Project) -> ProjectProgress:
    """Three counts over the whole project; tens of milliseconds at 100,000 tasks."""
    slots = Slot.objects.filter(project=project).aggregate(
        all=Count("pk"),
        filled=Count("pk", filter=Q(ranking__isnull=False)),
        leased=Count("pk", filter=Q(leased_until__gt=timezone.now())),
    )
    rankings = Ranking.objects.filter(task__project=project, superseded_at=None).aggregate(
        all=Count("pk"),
        simulated=Count("pk", filter=Q(source=Ranking.Source.SIMULATION)),
        imported=Count("pk", filter=Q(source=Ranking.Source.IMPORT)),
    )
    return ProjectProgress(
        tasks=Task.objects.filter(project=project).count(),
        slots=slots["all"],
        filled=slots["filled"],
        leased=slots["leased"],
        rankings=rankings["all"],
        simulated=rankings["simulated"],
        imported=rankings["imported"],
    )


@dataclass(frozen=True)
class ReviewerRow:
    username: str
    simulated: bool
    rankings: int
    seconds: float | None
    skips: int
    newest: datetime | None


def by_reviewer(project: Project, limit: int = 100) -> list[ReviewerRow]:
    """Reviewers with the most current rankings first."""
    rows: Any = (
        Ranking.objects.filter(task__project=project, superseded_at=None)
        .values("reviewer", "reviewer__username", "reviewer__simulated")
        .annotate(
            rankings=Count("pk"),
            seconds=Avg("active_seconds", filter=Q(active_seconds__gt=0)),
            newest=Max("created_at"),
        )
        .order_by("-rankings", "reviewer__username")[:limit]
    )
    skips = dict(
        Skip.objects.filter(task__project=project)
        .values("reviewer")
        .annotate(count=Count("pk"))
        .values_list("reviewer", "count")
    )
    return [
        ReviewerRow(
            row["reviewer__username"],
            row["reviewer__simulated"],
            row["rankings"],
            row["seconds"],
            skips.get(row["reviewer"], 0),
            row["newest"],
        )
        for row in rows
    ]

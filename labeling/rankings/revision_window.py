"""The time during which a reviewer may revise a ranking."""

from datetime import datetime, timedelta

from django.db.models import Min, OuterRef, Q, QuerySet, Subquery

from labeling.models import Gold, Ranking, Task


def revisable_until(ranking: Ranking) -> datetime | None:
    """Return the time until which the reviewer may revise the ranking, or None if they may not.

    The window starts with the reviewer's first ranking of the task. Costs a query for a ranking that is
    itself a revision, unless it is annotated by `with_first_sent`.
    """
    if is_settled(ranking.task):
        return None
    hours = ranking.task.project.revision_hours
    if not hours:
        return None
    first = ranking.created_at
    if ranking.supersedes_id is not None:
        own = _not_undone(
            Ranking.objects.filter(task=ranking.task_id, reviewer=ranking.reviewer_id)
        )
        first = getattr(ranking, "first_sent", None) or own.aggregate(at=Min("created_at"))["at"]
    return first + timedelta(hours=hours)


def with_first_sent(rankings: QuerySet[Ranking]) -> QuerySet[Ranking]:
    """Annotate rankings with `first_sent`, the time of the reviewer's first ranking of the task."""
    own = _not_undone(Ranking.objects.filter(task=OuterRef("task"), reviewer=OuterRef("reviewer")))
    return rankings.annotate(
        first_sent=Subquery(own.order_by("created_at").values("created_at")[:1])
    )


def _not_undone(rankings: QuerySet[Ranking]) -> QuerySet[Ranking]:
    """Exclude undone rankings, which are superseded but not by another ranking."""
    return rankings.filter(Q(superseded_at=None) | Q(superseded_by__isnull=False))


def is_settled(task: Task) -> bool:
    """Return whether the task's rankings and skips can no longer be revised or undone.

    This is so if reviewers have seen the right answer, if the task counts towards a qualification, or if
    it is withdrawn. Costs one query for a gold task, otherwise none.
    """
    if task.inactive:
        return True
    if task.kind != Task.Kind.GOLD:
        return False
    gold = Gold.objects.filter(task=task).exclude(purpose=Gold.Purpose.CHECK)
    return gold.exists()

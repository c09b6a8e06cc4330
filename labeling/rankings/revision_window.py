"""The time during which a reviewer may revise a ranking."""

from datetime import datetime, timedelta

from django.db.models import Min, OuterRef, Q, QuerySet, Subquery

from labeling.models import Gold, Ranking, Task


def revisable_until(ranking: Ranking) -> datetime | None:
    """Return the time until which the reviewer may revise the ranking, or None if they may not.

    The time counts from the reviewer's first ranking of the task. For a revision this costs a query,
    unless it has `first_sent` (see with_first_sent).
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
    """Exclude undone rankings: superseded, but not by another ranking."""
    return rankings.filter(Q(superseded_at=None) | Q(superseded_by__isnull=False))


def is_settled(task: Task) -> bool:
    """Return whether rankings and skips of the task can be neither revised nor undone.

    They are settled if their reviewers have seen the right answer, if they count towards a
    qualification, or if the task is withdrawn. One query for gold, otherwise none.
    """
    if task.inactive:
        return True
    if task.kind != Task.Kind.GOLD:
        return False
    gold = Gold.objects.filter(task=task).exclude(purpose=Gold.Purpose.CHECK)
    return gold.exists()

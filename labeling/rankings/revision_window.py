"""Whether, and until when, a reviewer may revise what they sent."""

from datetime import datetime, timedelta

from django.db.models import Min, OuterRef, Q, QuerySet, Subquery

from labeling.models import Gold, Ranking, Task


def revisable_until(ranking: Ranking) -> datetime | None:
    """When its reviewer can no longer revise it, counted from when the task was first ranked.

    None: never. For a revision it costs a query, unless it carries `first_sent` (see
    with_first_sent).
    """
    if is_settled(ranking):
        return None
    hours = ranking.task.project.revision_hours
    if not hours:
        return None
    first = ranking.created_at
    if ranking.supersedes_id is not None:
        own = _stood(Ranking.objects.filter(task=ranking.task_id, reviewer=ranking.reviewer_id))
        first = getattr(ranking, "first_sent", None) or own.aggregate(at=Min("created_at"))["at"]
    return first + timedelta(hours=hours)


def with_first_sent(rankings: QuerySet[Ranking]) -> QuerySet[Ranking]:
    """Each with `first_sent`, the time at which its reviewer first ranked its task."""
    own = _stood(Ranking.objects.filter(task=OuterRef("task"), reviewer=OuterRef("reviewer")))
    return rankings.annotate(
        first_sent=Subquery(own.order_by("created_at").values("created_at")[:1])
    )


def _stood(rankings: QuerySet[Ranking]) -> QuerySet[Ranking]:
    """Without those that were taken back: superseded, and by nothing."""
    return rankings.filter(Q(superseded_at=None) | Q(superseded_by__isnull=False))


def is_settled(ranking: Ranking) -> bool:
    """The right answer was shown, it counts towards a qualification, or its task is withdrawn.

    Such a ranking is neither revised nor taken back. A query for gold alone.
    """
    if ranking.task.out_of_use:
        return True
    if ranking.task.kind != Task.Kind.GOLD:
        return False
    gold = Gold.objects.filter(task=ranking.task_id).exclude(purpose=Gold.Purpose.CHECK)
    return gold.exists()

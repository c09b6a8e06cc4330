"""Training and qualification: gold tasks that every reviewer gets in the same order."""

from dataclasses import dataclass

from django.db.models import Exists, OuterRef

from accounts.models import User
from labeling.models import Gold, Project, Ranking, Skip


@dataclass(frozen=True)
class Course:
    """A reviewer's progress through the gold tasks of training or qualification."""

    done: int
    total: int
    next: Gold | None


def course(*, project: Project, reviewer: User, purpose: str) -> Course:
    """Return the reviewer's progress through the gold for this purpose. Skipped tasks count as done.

    Costs one query.
    """
    own = {"task": OuterRef("task"), "reviewer": reviewer}
    course_gold = list(
        Gold.objects.filter(
            project=project,
            purpose=purpose,
            retired_at=None,
            task__held=False,
            task__inactive=False,
        )
        .annotate(
            done=Exists(Ranking.objects.filter(superseded_at=None, **own))
            | Exists(Skip.objects.filter(**own))
        )
        .order_by("pk")
    )
    remaining = [gold for gold in course_gold if not gold.done]
    return Course(len(course_gold) - len(remaining), len(course_gold), next(iter(remaining), None))

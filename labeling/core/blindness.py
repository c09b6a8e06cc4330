"""Access to information that could bias a reviewer: model names, others' rankings, model scores.

The project's policy decides, and the server enforces it: hidden information is never sent. Leads of
the project see everything, except while they judge a task themselves (`judging`: the review page, an
open dispute). Then the rules for a reviewer who has not ranked the task apply to them. Each function costs at
most three queries.
"""

from django.db.models import QuerySet

from accounts.models import User
from labeling.core.access import leads
from labeling.models import Project, Ranking, Task

Sees = Project.Sees


def may_see_models(
    user: User, project: Project, task: Task | None = None, *, judging: bool = False
) -> bool:
    """Return whether the user may see which model wrote a response, of one task or of all."""
    return _may(project.sees_models, user, project, task, judging)


def may_see_others(
    user: User, project: Project, task: Task | None = None, *, judging: bool = False
) -> bool:
    """Return whether the user may see others' rankings and rationales. Only leads see their names."""
    return _may(project.sees_others, user, project, task, judging)


def may_see_suggestions(
    user: User, project: Project, task: Task | None = None, *, judging: bool = False
) -> bool:
    """Return whether the user may see a reward model's scores."""
    return _may(project.sees_suggestions, user, project, task, judging)


def _may(policy: str, user: User, project: Project, task: Task | None, judging: bool) -> bool:
    if not judging and leads(user, project):
        return True
    if judging and task is not None and task.kind == Task.Kind.COMPARISON:
        return False  # always blind, because the verdict compares models
    if policy == Sees.LEADS or not Project.objects.visible_to(user).filter(pk=project.pk).exists():
        return False
    return policy == Sees.ALWAYS or (not judging and task is not None and has_ranked(user, task))


def has_ranked(user: User, task: Task) -> bool:
    return Ranking.objects.filter(task=task, reviewer=user, superseded_at=None).exists()


def others_of(task: Task, user: User) -> QuerySet[Ranking]:
    """Return others' current rankings of the task.

    Gold has many more rankings than other tasks. To hide this, the result for a gold task has no more
    rankings than other tasks have.
    """
    others = Ranking.objects.filter(task=task, superseded_at=None).exclude(reviewer=user)
    if task.kind != Task.Kind.GOLD:
        return others
    usual_number = task.project.rankings_per_task - 1
    oldest = others.order_by("pk").values_list("pk", flat=True)[:usual_number]
    return others.filter(pk__in=list(oldest))

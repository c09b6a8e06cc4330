"""Access to information that could bias a reviewer: model names, others' rankings, model scores.

The project's settings decide, and the server never sends hidden information. Leads see everything, except
while they judge a task themselves, on the review page or in an open dispute (`judging`). They are then
treated like a reviewer who has not ranked the task. Each function costs at most three queries.
"""

from django.db.models import QuerySet

from accounts.models import User
from labeling.core.access import leads
from labeling.models import Project, Ranking, Task

Sees = Project.Sees


def may_see_models(
    user: User, project: Project, task: Task | None = None, *, judging: bool = False
) -> bool:
    """Return whether the user may see which models wrote the responses to one task, or to all tasks."""
    return _may(project.sees_models, user, project, task, judging)


def may_see_others(
    user: User, project: Project, task: Task | None = None, *, judging: bool = False
) -> bool:
    """Return whether the user may see others' rankings and rationales, though not who wrote them."""
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
        return False  # a comparison is always blind, because its verdict compares models
    if policy == Sees.LEADS or not Project.objects.visible_to(user).filter(pk=project.pk).exists():
        return False
    return policy == Sees.ALWAYS or (not judging and task is not None and has_ranked(user, task))


def has_ranked(user: User, task: Task) -> bool:
    return Ranking.objects.filter(task=task, reviewer=user, superseded_at=None).exists()


def others_of(task: Task, user: User) -> QuerySet[Ranking]:
    """Return the other reviewers' current rankings of the task.

    A gold task has many more rankings than an ordinary one. Its result is cut to the usual number, so
    that reviewers cannot recognise it as gold.
    """
    others = Ranking.objects.filter(task=task, superseded_at=None).exclude(reviewer=user)
    if task.kind != Task.Kind.GOLD:
        return others
    usual_number = task.project.rankings_per_task - 1
    oldest = others.order_by("pk").values_list("pk", flat=True)[:usual_number]
    return others.filter(pk__in=list(oldest))

"""Who may see what would sway a reviewer: model names, others' rankings, a reward model's scores.

The project's policy says so, and the server enforces it: what a person may not see is never sent.
Leads of the project see everything, except while they decide a task themselves (`judging`: the
review page, an open dispute), where they are as blind as its reviewers before they rank.
Each question costs at most three queries.
"""

from django.db.models import QuerySet

from accounts.models import User
from labeling.core.access import leads
from labeling.models import Project, Ranking, Task

Sees = Project.Sees


def may_see_models(
    user: User, project: Project, task: Task | None = None, *, judging: bool = False
) -> bool:
    """Which model wrote a response. Without a task: of any task of the project."""
    return _may(project.sees_models, user, project, task, judging)


def may_see_others(
    user: User, project: Project, task: Task | None = None, *, judging: bool = False
) -> bool:
    """How other reviewers ranked the task and why; never who they are, which only leads see."""
    return _may(project.sees_others, user, project, task, judging)


def may_see_suggestions(
    user: User, project: Project, task: Task | None = None, *, judging: bool = False
) -> bool:
    """What a reward model would say of the responses."""
    return _may(project.sees_suggestions, user, project, task, judging)


def _may(policy: str, user: User, project: Project, task: Task | None, judging: bool) -> bool:
    if not judging and leads(user, project):
        return True
    if judging and task is not None and task.kind == Task.Kind.COMPARISON:
        return False  # blind whatever the policy: the verdict compares models
    if policy == Sees.LEADS or not Project.objects.visible_to(user).filter(pk=project.pk).exists():
        return False
    return policy == Sees.ALWAYS or (not judging and task is not None and has_ranked(user, task))


def has_ranked(user: User, task: Task) -> bool:
    return Ranking.objects.filter(task=task, reviewer=user, superseded_at=None).exists()


def others_of(task: Task, user: User) -> QuerySet[Ranking]:
    """What others said of the task; of gold no more than any task has, or the number would tell it."""
    said = Ranking.objects.filter(task=task, superseded_at=None).exclude(reviewer=user)
    if task.kind != Task.Kind.GOLD:
        return said
    as_many = said.order_by("pk").values_list("pk", flat=True)[: task.project.rankings_per_task - 1]
    return said.filter(pk__in=list(as_many))

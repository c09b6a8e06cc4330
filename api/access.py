"""Access of a token to projects and their rows.

The functions of the pages decide what the owner of the token may see. A token for one project sees
less: only the rows of this project.
"""

from collections.abc import Callable
from typing import TypeVar

from django.db.models import Model, Q, QuerySet
from django.http import Http404, HttpRequest

from accounts.access import user_of
from accounts.api import Problem, token_of
from accounts.models import User
from finetune.access import evaluation_for, model_for
from finetune.models import Evaluation
from finetune.models import Model as LanguageModel
from labeling.core import access
from labeling.models import Project
from reward.access import led_projects, reward_model_for, snapshot_for
from reward.models import RewardModel, Snapshot
from runs.models import Run
from runs.views import run_for

Row = TypeVar("Row", bound=Model)


def visible_projects(request: HttpRequest) -> QuerySet[Project]:
    """Return the open projects that the owner of the token works in, within the token's limit."""
    return _within(request, Project.objects.visible_to(user_of(request)), "pk")


def own_projects(request: HttpRequest) -> QuerySet[Project]:
    """Return the open projects whose data the token may read: those that its owner leads."""
    return _within(request, led_projects(user_of(request)), "pk")


def visible_runs(request: HttpRequest) -> QuerySet[Run]:
    return _within(request, Run.objects.visible_to(user_of(request)), "project")


def readable_project(request: HttpRequest, slug: str) -> Project:
    """Return a project that the owner of the token works in, or an archived one that they lead."""
    _check_slug(request, slug)
    return access.readable_project(request, slug)


def archived_project(request: HttpRequest, slug: str) -> Project:
    """Return an archived project that the owner of the token may restore. Raises Http404."""
    _check_slug(request, slug)
    archived = Project.objects.archived_led_by(user_of(request)).filter(slug=slug)
    project = archived.select_related("current_version").first()
    if project is None:
        raise Http404(f"There is no archived project {slug} that you lead.")
    return project


def project_led(request: HttpRequest, slug: str) -> Project:
    """Return a project that the owner of the token leads.

    Raises PermissionDenied for its reviewers and for changes to an archived project, otherwise Http404.
    """
    _check_slug(request, slug)
    return access.led_project(request, slug)


def run_of(request: HttpRequest, number: int) -> Run:
    return _checked(request, run_for(request, number))


def snapshot_of(request: HttpRequest, number: int) -> Snapshot:
    return _checked(request, snapshot_for(request, number))


def model_of(request: HttpRequest, number: int) -> LanguageModel:
    return _checked(request, model_for(request, number))


def reward_model_of(request: HttpRequest, number: int) -> RewardModel:
    return _checked(request, reward_model_for(request, number))


def evaluation_of(request: HttpRequest, number: int) -> Evaluation:
    return _checked(request, evaluation_for(request, number))


def trainer_of(request: HttpRequest) -> User:
    """Return the owner of the token. Raises Problem unless they may start runs and promote models."""
    user = user_of(request)
    if not user.can_train:
        raise Problem(403, "Only trainers may do this.")
    return user


def to_change(
    request: HttpRequest, find: Callable[[HttpRequest, int], Row], number: int
) -> tuple[User, Row]:
    """Return the owner of the token and the row that `find` finds, which they may change.

    Raises Problem unless they are a trainer of its project.
    """
    user, row = trainer_of(request), find(request, number)
    check_trainer(user, row.project)  # type: ignore[attr-defined]
    return user, row


def check_trainer(user: User, project: Project | None) -> None:
    """Raise Problem unless the user may train in the project, or everywhere if a row has no project."""
    if not (user.is_everywhere if project is None else access.trains(user, project)):
        raise Problem(403, "Only trainers of the project may do this.")


def lead_of(request: HttpRequest) -> User:
    """Return the owner of the token. Raises Problem for reviewers."""
    user = user_of(request)
    if not user.can_lead:
        raise Problem(403, "Only leads and trainers may do this.")
    return user


def of_any_project(request: HttpRequest) -> None:
    """Raise Problem if the token is limited to one project."""
    if token_of(request).project_id is not None:
        raise Problem(403, "This token is limited to one project. Use a token without this limit.")


def _within(request: HttpRequest, rows: QuerySet[Row], path: str) -> QuerySet[Row]:
    project = token_of(request).project_id
    return rows if project is None else rows.filter(Q(**{path: project}))


def _checked(request: HttpRequest, row: Row) -> Row:
    check_project(request, row.project_id)  # type: ignore[attr-defined]
    return row


def check_project(request: HttpRequest, project: int | None) -> None:
    """Raise Http404 if the token is limited to another project."""
    limit = token_of(request).project_id
    if limit is not None and limit != project:
        raise Http404("This token is limited to another project.")


def _check_slug(request: HttpRequest, slug: str) -> None:
    limit = token_of(request).project
    if limit is not None and limit.slug != slug:
        raise Http404("This token is limited to another project.")

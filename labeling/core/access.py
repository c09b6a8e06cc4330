"""Access to projects. Each view of a project calls one of these functions in its first line."""

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django.utils.translation import gettext as _

from accounts.access import user_of
from accounts.models import User
from database.prepared import Prepared
from labeling.models import Membership, Project


def _visible_to(user: User, slug: str) -> QuerySet[Project]:
    return Project.objects.visible_to(user).filter(slug=slug).select_related("current_version")


_ANY = Prepared(lambda slug: _visible_to(User(is_superuser=True), slug), slug=str)
_OWN = Prepared(lambda user, slug: _visible_to(User(pk=user), slug), user=int, slug=str)


def project_for(request: HttpRequest, slug: str) -> Project:
    """Return the project with its current guideline version. Costs one query.

    Raises Http404 if the user may not see the project, and PermissionDenied if they are not signed in.
    """
    user = user_of(request)
    project = _ANY.first(slug=slug) if user.is_everywhere else _OWN.first(user=user.pk, slug=slug)
    if project is None:
        raise Http404(f"Project {slug} not found.")
    return project


def leads(user: User, project: Project) -> bool:
    """Return whether the user leads the project, and may therefore see others' rankings.

    The trainers of a project lead it too. Costs at most one query.
    """
    if user.is_everywhere or not user.can_lead:
        return user.is_everywhere
    return Membership.objects.leading().filter(user=user, project=project).exists()


def trains(user: User, project: Project) -> bool:
    """Return whether the user may train in the project, which is not archived.

    This means to freeze snapshots, start and change runs, and change the state of models. Costs at most
    one query.
    """
    if user.is_everywhere or not user.can_train:
        return user.can_train and project.archived_at is None
    return Project.objects.trained_by(user).filter(pk=project.pk).exists()


def require_trainer(user: User, project: Project) -> None:
    """Raise PermissionDenied unless the user may train in the project. Costs at most one query."""
    if not trains(user, project):
        raise PermissionDenied(_("Only trainers of the project may do this."))


def readable_project(request: HttpRequest, slug: str) -> Project:
    """Return the project if the user may see it. Its leads may also read an archived project.

    Raises PermissionDenied if a lead tries to change an archived project, otherwise Http404.
    """
    try:
        return project_for(request, slug)
    except Http404:
        user = user_of(request)
        archived = Project.objects.archived_led_by(user).filter(slug=slug)
        project = archived.select_related("current_version").first()
        if project is None:
            raise
    if request.method not in {"GET", "HEAD"}:
        raise PermissionDenied(_("This project is archived and read-only. Restore it first."))
    return project


def led_project(request: HttpRequest, slug: str) -> Project:
    """Return the project if the user leads it. Leads may also read an archived project.

    Raises PermissionDenied for the project's reviewers and for changes to an archived project, and
    Http404 for everyone else.
    """
    project = readable_project(request, slug)
    if not leads(user_of(request), project):
        raise PermissionDenied(_("Only leads of the project may see this page."))
    return project

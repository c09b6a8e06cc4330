from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from accounts.access import user_of
from accounts.models import User
from labeling.models import Membership, Project


def project_for(request: HttpRequest, slug: str) -> Project:
    """The project with its guideline version, when the signed-in user may see it. One query.

    Raises PermissionDenied or Http404.
    """
    visible = Project.objects.visible_to(user_of(request)).select_related("current_version")
    return get_object_or_404(visible, slug=slug)


def leads(user: User, project: Project) -> bool:
    """Whether the user sees other people's rankings of this project. Costs a query at most."""
    if user.can_train or not user.can_lead:
        return user.can_train
    leading = Membership.objects.filter(user=user, project=project, role=Membership.Role.LEAD)
    return leading.exists()


def led_project(request: HttpRequest, slug: str) -> Project:
    """The project, when the user leads it. Raises PermissionDenied for its reviewers, else Http404."""
    project = project_for(request, slug)
    if not leads(user_of(request), project):
        raise PermissionDenied("Only a lead of the project sees other people's rankings.")
    return project

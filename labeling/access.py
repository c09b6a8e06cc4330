from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from accounts.access import user_of
from accounts.models import User
from labeling.models import Membership, Project


def project_for(request: HttpRequest, slug: str) -> Project:
    """The project, when the signed-in user may see it. Raises PermissionDenied or Http404."""
    return get_object_or_404(Project.objects.visible_to(user_of(request)).distinct(), slug=slug)


def leads(user: User, project: Project) -> bool:
    """Whether the user sees other people's rankings of this project. Costs a query at most."""
    return (
        user.can_train
        or user.can_lead
        and Membership.objects.filter(
            user=user, project=project, role=Membership.Role.LEAD
        ).exists()
    )

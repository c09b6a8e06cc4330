from django.db.models import QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from accounts.access import user_of
from accounts.models import User
from labeling.models import Project
from reward.models import RewardModel, Snapshot


def led_projects(user: User) -> QuerySet[Project]:
    """Return the open projects whose data and models the user may see."""
    return Project.objects.led_by(user)


def trained_projects(user: User) -> QuerySet[Project]:
    """Return the open projects in which the user may freeze data, train, and promote models."""
    return Project.objects.trained_by(user)


def snapshot_for(request: HttpRequest, pk: int) -> Snapshot:
    """Return a snapshot that the signed-in user may see. Raises Http404 otherwise."""
    visible = Snapshot.objects.filter(project__in=led_projects(user_of(request)))
    return get_object_or_404(visible.select_related("project", "created_by"), pk=pk)


def reward_model_for(request: HttpRequest, pk: int) -> RewardModel:
    """Return a reward model that the signed-in user may see. Raises Http404 otherwise."""
    visible = RewardModel.objects.filter(project__in=led_projects(user_of(request)))
    return get_object_or_404(visible.select_related("project", "run", "snapshot"), pk=pk)

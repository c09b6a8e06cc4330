from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from accounts.access import user_of
from finetune.models import Evaluation, Model
from reward.access import led_projects


def model_for(request: HttpRequest, pk: int) -> Model:
    """Raises Http404 when the signed-in user may not see it."""
    seen = Model.objects.filter(project__in=led_projects(user_of(request)))
    return get_object_or_404(
        seen.select_related("project", "run", "snapshot", "parent", "run__created_by"), pk=pk
    )


def evaluation_for(request: HttpRequest, pk: int) -> Evaluation:
    """Raises Http404 when the signed-in user may not see it."""
    seen = Evaluation.objects.filter(project__in=led_projects(user_of(request)))
    return get_object_or_404(
        seen.select_related("project", "candidate", "baseline", "run", "reward_model__snapshot"),
        pk=pk,
    )

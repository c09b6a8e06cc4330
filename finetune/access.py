from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from accounts.access import user_of
from finetune.models import Certificate, Evaluation, Model
from reward.access import led_projects


def model_for(request: HttpRequest, pk: int) -> Model:
    """Return the model. Raises Http404 if the user may not see it."""
    visible = Model.objects.filter(project__in=led_projects(user_of(request)))
    return get_object_or_404(
        visible.select_related("project", "run", "snapshot", "parent", "run__created_by"), pk=pk
    )


def evaluation_for(request: HttpRequest, pk: int) -> Evaluation:
    """Return the evaluation. Raises Http404 if the user may not see it."""
    visible = Evaluation.objects.filter(project__in=led_projects(user_of(request)))
    return get_object_or_404(
        visible.select_related(
            "project", "candidate", "baseline", "run", "reward_model__snapshot", "regression_set"
        ),
        pk=pk,
    )


def certificate_for(request: HttpRequest, pk: int) -> Certificate:
    """Return the certificate. Raises Http404 if the user may not see it."""
    visible = Certificate.objects.filter(project__in=led_projects(user_of(request)))
    return get_object_or_404(visible.select_related("project", "model", "issued_by"), pk=pk)

"""The things made from a model: other models, and its copies on hubs."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q

from finetune.models import Model
from runs.models import Run, State

MOST_ROWS = 50


@dataclass(frozen=True)
class Push:
    """A copy of the model in a repository of a hub."""

    run: int
    repo: str
    url: str
    at: datetime | None


@dataclass(frozen=True)
class Uses:
    """The numbers of runs that used the model, except those that fine-tuned or merged it."""

    sampled: int
    compared: int


def children_of(model: Model) -> list[Model]:
    """Return the models that were made directly from this one, newest first. Costs one query."""
    children = Model.objects.filter(parent=model).select_related("run", "project")
    return list(children.order_by("-id")[:MOST_ROWS])


def pushes_of(model: Model) -> list[Push]:
    """Return the successful pushes of the model to hubs, newest first. Costs one query."""
    runs = Run.objects.filter(kind="push", state=State.SUCCEEDED, inputs__model=model.pk)
    return [
        Push(
            run.pk,
            f"{run.result.get('repo')}@{run.result.get('branch')}",
            _url(run),
            run.finished_at,
        )
        for run in runs.order_by("-id")[:MOST_ROWS]
    ]


def _url(run: Run) -> str:
    url = run.result.get("url")
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) else ""


def uses_of(model: Model) -> Uses:
    """Return how often the model was sampled and compared. Costs one query."""
    sampled = Q(kind__in=["generate", "ask"], inputs__model=model.pk)
    compared = Q(kind="evaluate", inputs__candidate=model.pk) | Q(
        kind="evaluate", inputs__baseline=model.pk
    )
    counts = Run.objects.filter(state=State.SUCCEEDED).aggregate(
        sampled=Count("pk", filter=sampled), compared=Count("pk", filter=compared)
    )
    return Uses(**counts)

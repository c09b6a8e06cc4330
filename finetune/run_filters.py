"""The language models by which the list of runs can be filtered."""

from collections.abc import Iterable

from accounts.models import User
from finetune.models import Model
from reward.access import led_projects
from runs.catalog.references import MOST_CHOICES, Reference, register


def models(user: User) -> Iterable[tuple[int, str]]:
    rows = Model.objects.filter(project__in=led_projects(user)).order_by("-id")
    return rows.values_list("pk", "name")[:MOST_CHOICES]


def register_references() -> None:
    register(Reference("model", "Model", ("model", "candidate", "baseline"), models))

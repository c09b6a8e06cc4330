"""The snapshots and reward models by which the list of runs can be filtered."""

from collections.abc import Iterable

from accounts.models import User
from reward.access import led_projects
from reward.models import RewardModel, Snapshot
from runs.catalog.references import MOST_CHOICES, Reference, register


def snapshots(user: User) -> Iterable[tuple[int, str]]:
    rows = Snapshot.objects.filter(project__in=led_projects(user)).select_related("project")
    for row in rows.order_by("-id")[:MOST_CHOICES]:
        yield row.pk, f"{row.pk}, {row.project}"


def reward_models(user: User) -> Iterable[tuple[int, str]]:
    rows = RewardModel.objects.filter(project__in=led_projects(user)).order_by("-id")
    return rows.values_list("pk", "name")[:MOST_CHOICES]


def register_references() -> None:
    register(Reference("snapshot", "Snapshot", ("snapshot",), snapshots))
    register(Reference("reward_model", "Reward model", ("reward_model",), reward_models))

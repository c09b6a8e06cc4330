"""The prompts that a model was trained on, through any number of adapters and merges."""

from collections.abc import Iterable

from finetune.models import Model
from recipes.preferences.groups import Group, read_groups
from reward.models import Snapshot


def trained_on(models: Iterable[Model]) -> set[str]:
    """Return the ids of the train prompts of all snapshots that the models or their ancestors
    used. Reads these snapshots.
    """
    return train_ids({m.snapshot for model in models for m in model.ancestry() if m.snapshot})


def train_ids(snapshots: Iterable[Snapshot]) -> set[str]:
    return {
        group.group_id
        for snapshot in snapshots
        for group in read_groups(snapshot.file)
        if group.split == "train"
    }


def without_trained(groups: Iterable[Group], trained: set[str]) -> list[Group]:
    """Return the groups without the held-out groups whose prompts the models were trained on."""
    return [group for group in groups if group.split == "train" or group.group_id not in trained]

from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import migrations

from runs import storage


def change(apps: Any, how: Any) -> None:
    """Absolute paths became relative to a storage root, so that var/ and the checkout can move."""
    for model in apps.get_model("reward", "RewardModel").objects.only("path", "base").iterator():
        fields = {"path": how(model.path), "base": how(model.base)}
        type(model).objects.filter(pk=model.pk).update(**fields)


def change_snapshots(apps: Any, editor: Any) -> None:
    """A snapshot's path is relative to the folder of snapshots already, but for the oldest."""
    folder = Path(settings.SNAPSHOTS_DIR).absolute()
    snapshots = apps.get_model("reward", "Snapshot").objects
    for snapshot in snapshots.filter(path__startswith="/").only("path"):
        path = Path(snapshot.path)
        if path.is_relative_to(folder) or (not path.exists() and (folder / path.name).exists()):
            snapshots.filter(pk=snapshot.pk).update(path=path.name)


class Migration(migrations.Migration):
    dependencies = [
        ("reward", "0004_snapshot_erased"),
        ("runs", "0004_relative_paths"),
    ]
    operations = [
        migrations.RunPython(
            lambda apps, editor: change(apps, storage.portable),
            lambda apps, editor: change(apps, storage.resolve),
        ),
        migrations.RunPython(change_snapshots, migrations.RunPython.noop),
    ]

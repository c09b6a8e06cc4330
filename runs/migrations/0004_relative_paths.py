from typing import Any

from django.db import migrations

from runs import storage

FOLDERS = ("base_model", "model", "adapter", "baseline_adapter", "reward_model")


def change(apps: Any, how: Any) -> None:
    """Absolute paths became relative to a storage root, so that var/ and the checkout can move."""
    for artifact in apps.get_model("runs", "Artifact").objects.iterator():
        if (path := how(artifact.path)) != artifact.path:
            type(artifact).objects.filter(pk=artifact.pk).update(path=path)
    for run in apps.get_model("runs", "Run").objects.only("config").iterator():
        paths = {n: how(v) for n in FOLDERS if isinstance(v := run.config.get(n), str)}
        if (config := {**run.config, **paths}) != run.config:
            type(run).objects.filter(pk=run.pk).update(config=config)


class Migration(migrations.Migration):
    dependencies = [("runs", "0003_run_project")]
    operations = [
        migrations.RunPython(
            lambda apps, editor: change(apps, storage.portable),
            lambda apps, editor: change(apps, storage.resolve),
        )
    ]

from typing import Any

from django.db import migrations

from runs import storage


def change(apps: Any, how: Any) -> None:
    """Absolute paths became relative to a storage root, so that var/ and the checkout can move."""
    for model in apps.get_model("finetune", "Model").objects.only("adapter", "base").iterator():
        fields = {"adapter": how(model.adapter), "base": how(model.base)}
        type(model).objects.filter(pk=model.pk).update(**fields)


class Migration(migrations.Migration):
    dependencies = [
        ("finetune", "0003_project_of_runs"),
        ("runs", "0004_relative_paths"),
    ]
    operations = [
        migrations.RunPython(
            lambda apps, editor: change(apps, storage.portable),
            lambda apps, editor: change(apps, storage.resolve),
        )
    ]

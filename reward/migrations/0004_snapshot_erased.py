"""A snapshot can lose content that was erased, and may then equal another one."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("reward", "0003_active_scores_and_order")]

    operations = [
        migrations.AddField(
            "snapshot",
            "erased_at",
            models.DateTimeField(
                editable=False,
                help_text="When content was last erased from its file, which changed its hash.",
                null=True,
            ),
        ),
        migrations.RemoveConstraint("snapshot", "snapshot_once"),
        migrations.AddConstraint(
            "snapshot",
            models.UniqueConstraint(
                condition=models.Q(("erased_at", None)),
                fields=("project", "content_hash", "filter"),
                name="snapshot_once",
            ),
        ),
    ]

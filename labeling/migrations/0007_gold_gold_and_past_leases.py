"""Gold names its project, and a slot remembers whose lease of it ended without an answer."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("labeling", "0006_overlap_gold_and_disputes")]

    operations = [
        migrations.AlterModelOptions(name="gold", options={"verbose_name_plural": "gold"}),
        migrations.AddField(
            model_name="gold",
            name="project",
            field=models.ForeignKey(
                db_index=False,
                help_text="The task's.",
                on_delete=django.db.models.deletion.CASCADE,
                related_name="gold",
                to="labeling.project",
            ),
            preserve_default=False,
        ),
        migrations.AddIndex(
            model_name="gold",
            index=models.Index(
                models.F("project"), models.F("purpose"), models.F("id"), name="gold_of_project"
            ),
        ),
        migrations.AddField(
            model_name="slot",
            name="had_by",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.BigIntegerField(),
                help_text="Whose lease of it ended without an answer: their late ranking is kept.",
                null=True,
                size=None,
            ),
        ),
    ]

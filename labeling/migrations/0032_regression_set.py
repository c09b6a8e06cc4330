"""Whether a promotion needs the regression set of the project."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("labeling", "0031_chat"),
    ]

    operations = [
        migrations.AddField(
            model_name="project",
            name="require_regression_set",
            field=models.BooleanField(
                default=False,
                help_text="Whether a fine-tuned model must be proven not worse on the project's regression set.",
            ),
        ),
    ]

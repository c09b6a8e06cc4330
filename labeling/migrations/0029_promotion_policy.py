"""The verdicts that a fine-tuned model needs before it is promoted."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("labeling", "0028_plain_help_texts"),
    ]

    operations = [
        migrations.AddField(
            model_name="project",
            name="promotion_policy",
            field=models.CharField(
                choices=[
                    ("people", "People's verdicts"),
                    ("judge", "People's verdicts, or a judge's"),
                ],
                default="people",
                help_text="The verdicts that must prove a fine-tuned model better before it is promoted.",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="project",
            constraint=models.CheckConstraint(
                condition=models.Q(("promotion_policy__in", ["people", "judge"])),
                name="project_promotion_policy",
            ),
        ),
    ]

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("labeling", "0033_reviewers_chat"),
        ("accounts", "0012_all_projects"),
    ]

    operations = [
        migrations.AlterField(
            model_name="membership",
            name="role",
            field=models.CharField(
                choices=[("reviewer", "Reviewer"), ("lead", "Lead"), ("trainer", "Trainer")],
                default="reviewer",
                max_length=16,
            ),
        ),
        migrations.RemoveConstraint(model_name="membership", name="membership_role_known"),
        migrations.AddConstraint(
            model_name="membership",
            constraint=models.CheckConstraint(
                condition=models.Q(role__in=["reviewer", "lead", "trainer"]),
                name="membership_role_known",
            ),
        ),
    ]

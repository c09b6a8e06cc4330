from django.db import migrations, models

# Until now, every trainer had access to every project.
KEEP_ACCESS = "UPDATE accounts_user SET all_projects = true WHERE role = 'trainer'"


class Migration(migrations.Migration):
    dependencies = [("accounts", "0011_tokens_and_keys")]

    operations = [
        migrations.AddField(
            model_name="user",
            name="all_projects",
            field=models.BooleanField(
                default=False,
                help_text="Whether a lead or trainer has this role in every project, also without membership.",
                verbose_name="all projects",
            ),
        ),
        migrations.RunSQL(KEEP_ACCESS, migrations.RunSQL.noop),
    ]

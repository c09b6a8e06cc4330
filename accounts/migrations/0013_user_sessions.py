import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

# Whatever deletes a session also deletes its row here.
LINK = """
ALTER TABLE accounts_usersession ADD CONSTRAINT usersession_of_session
    FOREIGN KEY (session_key) REFERENCES django_session (session_key) ON DELETE CASCADE
    DEFERRABLE INITIALLY DEFERRED;
"""
UNLINK = "ALTER TABLE accounts_usersession DROP CONSTRAINT usersession_of_session"


class Migration(migrations.Migration):
    dependencies = [("accounts", "0012_all_projects"), ("sessions", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="UserSession",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("session_key", models.CharField(max_length=40, unique=True)),
                ("signed_in_at", models.DateTimeField()),
                ("address", models.CharField(blank=True, max_length=45)),
                ("browser", models.CharField(blank=True, max_length=60)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="sessions",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={"ordering": ["-signed_in_at", "-id"]},
        ),
        migrations.RunSQL(LINK, UNLINK),
    ]

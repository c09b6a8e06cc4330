"""Scopes, projects and expiry of tokens. Existing tokens keep what they could do: inference."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0010_audit_frozen"),
        ("labeling", "0033_reviewers_chat"),
    ]

    operations = [
        migrations.AddField(
            model_name="token",
            name="expires_at",
            field=models.DateTimeField(
                blank=True,
                help_text="When the token stops working. If empty, it never does.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="token",
            name="project",
            field=models.ForeignKey(
                blank=True,
                help_text="The only project that the token can use. If empty, all projects of its owner.",
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="labeling.project",
            ),
        ),
        migrations.AddField(
            model_name="token",
            name="request_minute",
            field=models.BigIntegerField(
                default=0,
                editable=False,
                help_text="The minute of the newest request, counted from 1970.",
            ),
        ),
        migrations.AddField(
            model_name="token",
            name="requests",
            field=models.PositiveIntegerField(
                default=0, editable=False, help_text="The number of requests in that minute."
            ),
        ),
        migrations.AddField(
            model_name="token",
            name="scopes",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(
                    choices=[
                        ("read", "Read projects, rankings, runs and models"),
                        ("label", "Add and withdraw tasks"),
                        ("train", "Freeze data, start runs, evaluate and promote models"),
                        ("admin", "Change projects, members, guidelines and webhooks"),
                        ("inference", "Score responses and chat with models"),
                    ],
                    max_length=16,
                ),
                default=list,
                help_text="What the token may do.",
                size=None,
            ),
        ),
        migrations.RunSQL(
            "UPDATE accounts_token SET scopes = '{inference}'", reverse_sql=migrations.RunSQL.noop
        ),
        migrations.CreateModel(
            name="IdempotentRequest",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("key", models.CharField(max_length=255)),
                (
                    "digest",
                    models.CharField(
                        help_text="SHA-256 of method, address and body.", max_length=64
                    ),
                ),
                ("status", models.PositiveSmallIntegerField(null=True)),
                ("headers", models.JSONField(default=dict)),
                ("body", models.TextField(blank=True)),
                ("created_at", models.DateTimeField(auto_now_add=True, db_index=True)),
                (
                    "token",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="accounts.token",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("token"), models.F("key"), name="idempotency_key_once"
                    )
                ],
            },
        ),
    ]

"""All migrations up to 0006 in one step, which an empty database applies much faster."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import reward.models

# The pseudonym of a withdrawn reviewer is never used again.
PSEUDONYMS = """
CREATE OR REPLACE FUNCTION tiebreak_burned_pseudonym_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND coalesce(current_setting('tiebreak.erasing', true), '') = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'pseudonym % is burned and is never given out again', OLD.name
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE OR REPLACE FUNCTION tiebreak_pseudonym_unburned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM reward_burnedpseudonym
               WHERE project_id = NEW.project_id AND name = NEW.name) THEN
        RAISE EXCEPTION 'pseudonym % is burned and is never given out again', NEW.name
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER burned_pseudonym_frozen
    BEFORE DELETE OR UPDATE ON reward_burnedpseudonym
    FOR EACH ROW EXECUTE FUNCTION tiebreak_burned_pseudonym_frozen();
CREATE TRIGGER pseudonym_unburned
    BEFORE INSERT OR UPDATE ON reward_pseudonym
    FOR EACH ROW EXECUTE FUNCTION tiebreak_pseudonym_unburned();
"""


class Migration(migrations.Migration):
    initial = True

    replaces = [
        ("reward", "0001_initial"),
        ("reward", "0002_pseudonym_key"),
        ("reward", "0003_active_scores_and_order"),
        ("reward", "0004_snapshot_erased"),
        ("reward", "0005_relative_paths"),
        ("reward", "0006_withdrawals"),
    ]

    dependencies = [
        ("labeling", "0030_withdrawn_data"),
        ("runs", "0004_relative_paths"),
    ]

    operations = [
        migrations.CreateModel(
            name="PseudonymKey",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "key",
                    models.CharField(default=reward.models.new_key, editable=False, max_length=64),
                ),
                (
                    "project",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="labeling.project",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="RewardModel",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("candidate", "Candidate"),
                            ("promoted", "Promoted"),
                            ("archived", "Archived"),
                        ],
                        default="candidate",
                        max_length=16,
                    ),
                ),
                ("name", models.CharField(max_length=120)),
                (
                    "base",
                    models.CharField(help_text="repo, repo@revision or a folder.", max_length=300),
                ),
                (
                    "path",
                    models.CharField(
                        help_text="Folder with the adapter and the score head.", max_length=500
                    ),
                ),
                ("report", models.JSONField(default=dict)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="reward_models",
                        to="labeling.project",
                    ),
                ),
                (
                    "run",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="reward_model",
                        to="runs.run",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="QueueOrder",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("counts", models.JSONField(default=dict)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("undone_at", models.DateTimeField(null=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="queue_orders",
                        to="labeling.project",
                    ),
                ),
                (
                    "reward_model",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="queue_orders",
                        to="reward.rewardmodel",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("project"),
                        condition=models.Q(("undone_at", None)),
                        name="queue_order_one_in_force",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Snapshot",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("filter", models.JSONField(default=dict, help_text="See SnapshotFilter.")),
                ("content_hash", models.CharField(max_length=64)),
                (
                    "path",
                    models.CharField(
                        help_text="The Parquet file; inside the folder of snapshots if relative.",
                        max_length=500,
                    ),
                ),
                (
                    "counts",
                    models.JSONField(
                        default=dict,
                        help_text="Counts of the content, and of rankings left out by reason.",
                    ),
                ),
                (
                    "erased_at",
                    models.DateTimeField(
                        editable=False,
                        help_text="When content was last erased from its file, which changed its hash.",
                        null=True,
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="snapshots",
                        to="labeling.project",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("erased_at", None)),
                        fields=("project", "content_hash", "filter"),
                        name="snapshot_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("content_hash", ""), _negated=True),
                        name="snapshot_hashed",
                    ),
                ],
            },
        ),
        migrations.AddField(
            model_name="rewardmodel",
            name="snapshot",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="reward_models",
                to="reward.snapshot",
            ),
        ),
        migrations.CreateModel(
            name="Withdrawal",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("reviewer", "A reviewer's data"),
                            ("prompt", "A prompt"),
                            ("response", "A response"),
                        ],
                        max_length=16,
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=300)),
                (
                    "reach",
                    models.JSONField(
                        default=dict, help_text="Rows that the data had reached, by kind."
                    ),
                ),
                ("at", models.DateTimeField(auto_now_add=True)),
                (
                    "by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="withdrawals",
                        to="labeling.project",
                    ),
                ),
                (
                    "prompt",
                    models.ForeignKey(
                        help_text="Of a prompt or response.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.prompt",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="WithdrawnSnapshot",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "snapshot",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="withdrawals",
                        to="reward.snapshot",
                    ),
                ),
                (
                    "withdrawal",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="snapshots",
                        to="reward.withdrawal",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("withdrawal"), models.F("snapshot"), name="withdrawn_snapshot_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="BurnedPseudonym",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=20)),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="burned_pseudonyms",
                        to="labeling.project",
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("project"), models.F("name"), name="burned_pseudonym_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Pseudonym",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=20)),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="labeling.project",
                    ),
                ),
                (
                    "reviewer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("project"), models.F("reviewer"), name="pseudonym_once"
                    ),
                    models.UniqueConstraint(
                        models.F("project"), models.F("name"), name="pseudonym_of_one_reviewer"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="OrderedTask",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "was",
                    models.BigIntegerField(
                        help_text="The position of its first free slot before the ordering."
                    ),
                ),
                (
                    "place",
                    models.PositiveIntegerField(
                        help_text="Tasks are given out in this order, from 1."
                    ),
                ),
                ("gain", models.FloatField(help_text="Expected information, in nats.")),
                (
                    "task",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="labeling.task",
                    ),
                ),
                (
                    "order",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="tasks",
                        to="reward.queueorder",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(models.F("order"), models.F("place"), name="ordered_task_place")
                ],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("order"), models.F("task"), name="ordered_task_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="RandomStream",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("share", models.FloatField()),
                ("seed", models.PositiveIntegerField()),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "project",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="random_stream",
                        to="labeling.project",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("share__gt", 0), ("share__lte", 0.9)),
                        name="random_stream_share",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ResponseScore",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "score",
                    models.FloatField(help_text="Comparable within a prompt only.", null=True),
                ),
                (
                    "uncertainty",
                    models.FloatField(
                        help_text="Standard deviation over the heads; null for one head.", null=True
                    ),
                ),
                (
                    "features",
                    models.BinaryField(
                        help_text="The last layer at the response's end: little-endian float32.",
                        null=True,
                    ),
                ),
                (
                    "response",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="scores",
                        to="labeling.response",
                    ),
                ),
                (
                    "reward_model",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="scores",
                        to="reward.rewardmodel",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("reward_model"), models.F("response"), name="response_score_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("score__isnull", False),
                            models.Q(("features", None), ("uncertainty", None)),
                            _connector="OR",
                        ),
                        name="response_score_or_nothing",
                    ),
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="rewardmodel",
            constraint=models.UniqueConstraint(
                models.F("project"),
                condition=models.Q(("state", "promoted")),
                name="reward_model_one_promoted",
            ),
        ),
        migrations.AddConstraint(
            model_name="rewardmodel",
            constraint=models.CheckConstraint(
                condition=models.Q(("state__in", ["candidate", "promoted", "archived"])),
                name="reward_model_state_known",
            ),
        ),
        migrations.RunSQL(
            PSEUDONYMS,
            "DROP FUNCTION tiebreak_burned_pseudonym_frozen, tiebreak_pseudonym_unburned CASCADE;",
        ),
    ]

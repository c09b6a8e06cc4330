"""Regression sets, which cannot be changed, and the answers to their prompts."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

# A version is deleted only with its project, which sets tiebreak.erasing.
FROZEN = """
CREATE FUNCTION tiebreak_regression_set_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND coalesce(current_setting('tiebreak.erasing', true), '') = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'version % of the regression set cannot be changed', OLD.number
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER regression_set_frozen BEFORE UPDATE OR DELETE ON finetune_regressionset
    FOR EACH ROW EXECUTE FUNCTION tiebreak_regression_set_frozen();
CREATE TRIGGER regression_verdict_frozen
    BEFORE UPDATE OF evaluation_id, prompt_id, sample, verdict, baseline_passed, candidate_passed
    ON finetune_regressionitem FOR EACH ROW EXECUTE FUNCTION tiebreak_verdict_frozen();
CREATE FUNCTION tiebreak_regression_registered() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'evaluation % has verdicts; its registration cannot be changed', OLD.id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER regression_registered BEFORE UPDATE ON finetune_evaluation FOR EACH ROW
    WHEN (OLD.attempt IS NOT NULL AND OLD.regression_set_id IS DISTINCT FROM NEW.regression_set_id)
    EXECUTE FUNCTION tiebreak_regression_registered();
"""
THAWED = """
DROP TRIGGER regression_verdict_frozen ON finetune_regressionitem;
DROP FUNCTION tiebreak_regression_set_frozen CASCADE;
DROP FUNCTION tiebreak_regression_registered CASCADE;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("finetune", "0012_deliveries"),
        ("labeling", "0032_regression_set"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="RegressionSet",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "number",
                    models.PositiveIntegerField(help_text="Its version in the project, from 1."),
                ),
                (
                    "cases",
                    models.JSONField(
                        help_text="The prompts, and the properties that an answer must have."
                    ),
                ),
                (
                    "margin",
                    models.FloatField(
                        default=0.1,
                        help_text="Largest loss of win rate on the set that still counts as not worse.",
                    ),
                ),
                (
                    "sha256",
                    models.CharField(help_text="Hash of the cases and the margin.", max_length=64),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
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
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="regression_sets",
                        to="labeling.project",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.AddField(
            model_name="evaluation",
            name="regression_set",
            field=models.ForeignKey(
                blank=True,
                help_text="The version of the regression set on which the candidate must not be worse.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="evaluations",
                to="finetune.regressionset",
            ),
        ),
        migrations.CreateModel(
            name="RegressionItem",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("sample", models.PositiveSmallIntegerField(default=0)),
                ("baseline_text", models.TextField()),
                ("candidate_text", models.TextField()),
                ("baseline_passed", models.BooleanField(null=True)),
                ("candidate_passed", models.BooleanField(null=True)),
                ("verdict", models.FloatField(blank=True, null=True)),
                (
                    "evaluation",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="regression_items",
                        to="finetune.evaluation",
                    ),
                ),
                (
                    "prompt",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.prompt",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("evaluation"),
                        models.F("prompt"),
                        models.F("sample"),
                        name="regression_item_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("verdict__in", [0.0, 0.5, 1.0])),
                        name="regression_verdict_known",
                    ),
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="regressionset",
            constraint=models.UniqueConstraint(
                models.F("project"), models.F("number"), name="regression_set_number_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="regressionset",
            constraint=models.CheckConstraint(
                condition=models.Q(("margin__gte", 0.01), ("margin__lte", 0.25)),
                name="regression_set_margin",
            ),
        ),
        migrations.RunSQL(FROZEN, THAWED),
    ]

"""Evaluations are registered before they start, and cannot change once they have verdicts."""

from django.db import migrations, models

FROZEN = """
CREATE FUNCTION tiebreak_evaluation_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.project_id, OLD.run_id, OLD.candidate_id, OLD.baseline_id, OLD.judge, OLD.reward_model_id,
        OLD.alpha, OLD.margin, OLD.sample_seed, OLD.prompts, OLD.verdicts_per_prompt, OLD.attempt)
        IS DISTINCT FROM
       (NEW.project_id, NEW.run_id, NEW.candidate_id, NEW.baseline_id, NEW.judge, NEW.reward_model_id,
        NEW.alpha, NEW.margin, NEW.sample_seed, NEW.prompts, NEW.verdicts_per_prompt, NEW.attempt) THEN
        RAISE EXCEPTION 'evaluation % has verdicts; its registration cannot be changed', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER evaluation_frozen BEFORE UPDATE ON finetune_evaluation
    FOR EACH ROW WHEN (OLD.attempt IS NOT NULL) EXECUTE FUNCTION tiebreak_evaluation_frozen();
CREATE FUNCTION tiebreak_verdict_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'verdict % of evaluation % cannot be changed', OLD.id, OLD.evaluation_id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER verdict_frozen
    BEFORE UPDATE OF evaluation_id, prompt_id, sample, verdict, task_id, candidate_response_id
    ON finetune_evaluationitem FOR EACH ROW EXECUTE FUNCTION tiebreak_verdict_frozen();
"""

THAWED = """
DROP FUNCTION tiebreak_evaluation_frozen CASCADE;
DROP FUNCTION tiebreak_verdict_frozen CASCADE;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("finetune", "0004_relative_paths"),
        ("labeling", "0027_help_of_certainty"),
        ("reward", "0005_relative_paths"),
        ("runs", "0005_event_recorded_at"),
    ]

    operations = [
        migrations.AddField(
            model_name="evaluation",
            name="alpha",
            field=models.FloatField(
                blank=True,
                help_text="Error rate that all evaluations of the two models share.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="evaluation",
            name="attempt",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="Its number among the evaluations of the two models with verdicts, from 1.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="evaluation",
            name="margin",
            field=models.FloatField(
                blank=True,
                help_text="Largest loss of win rate that still counts as not worse.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="evaluation",
            name="prompts",
            field=models.JSONField(
                blank=True,
                default=list,
                help_text="Ids of the registered prompts, in random order.",
            ),
        ),
        migrations.AddField(
            model_name="evaluation",
            name="sample_seed",
            field=models.BigIntegerField(
                blank=True, help_text="Seed of the random sample of held-out prompts.", null=True
            ),
        ),
        migrations.AddField(
            model_name="evaluation",
            name="verdicts_per_prompt",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="People's verdicts of a prompt that count, together one unit.",
                null=True,
            ),
        ),
        migrations.AddConstraint(
            model_name="evaluation",
            constraint=models.UniqueConstraint(
                models.F("candidate"),
                models.F("baseline"),
                models.F("attempt"),
                name="evaluation_attempt_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="evaluation",
            constraint=models.CheckConstraint(
                condition=models.Q(("alpha__gt", 0), ("alpha__lte", 0.1)), name="evaluation_alpha"
            ),
        ),
        migrations.AddConstraint(
            model_name="evaluation",
            constraint=models.CheckConstraint(
                condition=models.Q(("margin__gte", 0.01), ("margin__lte", 0.2)),
                name="evaluation_margin",
            ),
        ),
        migrations.AddConstraint(
            model_name="evaluation",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("verdicts_per_prompt__gte", 1), ("verdicts_per_prompt__lte", 9)
                ),
                name="evaluation_verdicts_per_prompt",
            ),
        ),
        migrations.AddConstraint(
            model_name="evaluation",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("attempt", None),
                    models.Q(("alpha__isnull", False), ("attempt__gte", 1)),
                    _connector="OR",
                ),
                name="evaluation_attempt",
            ),
        ),
        migrations.RunSQL(FROZEN, THAWED),
    ]

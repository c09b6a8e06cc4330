"""Evaluations by people alone, with a judge as control variate, and with a limit of verdicts."""

from django.db import migrations, models

FROZEN = """
CREATE OR REPLACE FUNCTION tiebreak_evaluation_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.project_id, OLD.run_id, OLD.candidate_id, OLD.baseline_id, OLD.judge, OLD.reward_model_id,
        OLD.alpha, OLD.margin, OLD.sample_seed, OLD.prompts, OLD.verdicts_per_prompt, OLD.attempt{old})
        IS DISTINCT FROM
       (NEW.project_id, NEW.run_id, NEW.candidate_id, NEW.baseline_id, NEW.judge, NEW.reward_model_id,
        NEW.alpha, NEW.margin, NEW.sample_seed, NEW.prompts, NEW.verdicts_per_prompt, NEW.attempt{new}) THEN
        RAISE EXCEPTION 'evaluation % has verdicts; its registration cannot be changed', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER verdict_frozen ON finetune_evaluationitem;
CREATE TRIGGER verdict_frozen
    BEFORE UPDATE OF evaluation_id, prompt_id, sample, verdict, task_id, candidate_response_id{items}
    ON finetune_evaluationitem FOR EACH ROW EXECUTE FUNCTION tiebreak_verdict_frozen();
"""
COLUMNS = ("asks_people", "judge_controls", "most_verdicts", "question")


def frozen(columns: tuple[str, ...], items: tuple[str, ...]) -> str:
    """Return the SQL of the triggers that also protect these columns."""
    old, new = ("".join(f", {row}.{column}" for column in columns) for row in ("OLD", "NEW"))
    return FROZEN.format(old=old, new=new, items="".join(f", {column}" for column in items))


class Migration(migrations.Migration):
    dependencies = [
        ("finetune", "0008_certificates"),
        ("labeling", "0029_promotion_policy"),
        ("reward", "0005_relative_paths"),
        ("runs", "0006_help_texts"),
    ]

    operations = [
        migrations.AddField(
            model_name="evaluation",
            name="asks_people",
            field=models.BooleanField(
                default=False, help_text="Whether blind comparisons are queued for reviewers."
            ),
        ),
        migrations.AddField(
            model_name="evaluation",
            name="judge_controls",
            field=models.BooleanField(
                default=False,
                help_text="Whether the judge is a control variate of people's verdicts, which saves verdicts.",
            ),
        ),
        migrations.AddField(
            model_name="evaluation",
            name="most_verdicts",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Most verdicts that people are asked for. Empty for all prompts.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="evaluation",
            name="question",
            field=models.CharField(
                choices=[("these", "These reviewers"), ("like them", "Reviewers like them")],
                default="these",
                help_text="The reviewers that the conclusion is about.",
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="evaluation",
            name="stopped_at",
            field=models.DateTimeField(
                blank=True,
                help_text="When the open comparisons were taken off the queue, because the answer was clear.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="evaluationitem",
            name="block",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Block of prompts, of which people judge one, if the judge is a control variate.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="evaluation",
            name="judge",
            field=models.CharField(
                blank=True,
                help_text="The judge: a reward model or a rule. Empty if only people judge.",
                max_length=60,
            ),
        ),
        migrations.AlterField(
            model_name="evaluationitem",
            name="verdict",
            field=models.FloatField(blank=True, null=True),
        ),
        migrations.AddConstraint(
            model_name="evaluation",
            constraint=models.CheckConstraint(
                condition=models.Q(("most_verdicts__gte", 1)), name="evaluation_most_verdicts"
            ),
        ),
        migrations.AddConstraint(
            model_name="evaluation",
            constraint=models.CheckConstraint(
                condition=models.Q(("question__in", ["these", "like them"])),
                name="evaluation_question",
            ),
        ),
        migrations.AddConstraint(
            model_name="evaluation",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("judge_controls", False),
                    models.Q(("asks_people", True), models.Q(("judge", ""), _negated=True)),
                    _connector="OR",
                ),
                name="evaluation_control_has_a_judge",
            ),
        ),
        migrations.RunSQL(
            """
            UPDATE finetune_evaluation SET asks_people = true WHERE EXISTS (
                SELECT FROM finetune_evaluationitem item
                WHERE item.evaluation_id = finetune_evaluation.id AND item.task_id IS NOT NULL)
            """,
            migrations.RunSQL.noop,
        ),
        migrations.RunSQL(frozen(COLUMNS, ("block",)), frozen((), ())),
    ]

"""Evaluations whose judge orders the prompts that people compare."""

from django.db import migrations, models

FROZEN = """
DROP TRIGGER regression_registered ON finetune_evaluation;
CREATE TRIGGER regression_registered BEFORE UPDATE ON finetune_evaluation FOR EACH ROW
    WHEN (OLD.attempt IS NOT NULL AND (OLD.regression_set_id IS DISTINCT FROM NEW.regression_set_id{order}))
    EXECUTE FUNCTION tiebreak_regression_registered();
"""
ORDER = " OR OLD.judge_order IS DISTINCT FROM NEW.judge_order"


class Migration(migrations.Migration):
    dependencies = [
        ("finetune", "0013_regression_sets"),
        ("labeling", "0032_regression_set"),
        ("reward", "0006_withdrawals"),
        ("runs", "0006_help_texts"),
    ]

    operations = [
        migrations.AddField(
            model_name="evaluation",
            name="judge_order",
            field=models.CharField(
                blank=True,
                choices=[
                    ("", "Random"),
                    ("uncertain", "Judge least certain first"),
                    ("certain", "Judge most certain first"),
                ],
                default="",
                help_text="Which prompts of a random block people get first, by the judge's certainty.",
                max_length=10,
            ),
        ),
        migrations.AlterField(
            model_name="evaluationitem",
            name="block",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Block of prompts, if the judge is a control variate or orders the prompts.",
                null=True,
            ),
        ),
        migrations.AddConstraint(
            model_name="evaluation",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("judge_order", ""),
                    models.Q(
                        ("asks_people", True),
                        ("judge_controls", False),
                        ("judge_order__in", ["uncertain", "certain"]),
                        models.Q(("judge", ""), _negated=True),
                    ),
                    _connector="OR",
                ),
                name="evaluation_order_has_a_judge",
            ),
        ),
        migrations.RunSQL(FROZEN.format(order=ORDER), FROZEN.format(order="")),
    ]

"""Prompts, responses and tasks can be withdrawn."""

from django.conf import settings
from django.db import migrations, models
from django.db.models import Q

# Whether a response is withdrawn may change after its task was ranked; what the task ranks may not.
RANKED_TASK_FROZEN = """
DROP TRIGGER ranked_task_frozen ON labeling_taskresponse;
CREATE TRIGGER ranked_task_frozen
    BEFORE UPDATE OF task_id, response_id, position OR DELETE ON labeling_taskresponse
    FOR EACH ROW EXECUTE FUNCTION tiebreak_ranked_task_frozen();
"""

RANKED_TASK_FROZEN_BEFORE = """
DROP TRIGGER ranked_task_frozen ON labeling_taskresponse;
CREATE TRIGGER ranked_task_frozen BEFORE UPDATE OR DELETE ON labeling_taskresponse
    FOR EACH ROW EXECUTE FUNCTION tiebreak_ranked_task_frozen();
"""


def withdrawable(model):
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        db_index=False,
        editable=False,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
    )
    reason = models.CharField(blank=True, db_default="", default="", editable=False, max_length=300)
    return [
        migrations.AddField(model, "withdrawn_at", models.DateTimeField(editable=False, null=True)),
        migrations.AddField(model, "withdrawn_by", user),
        migrations.AddField(model, "withdrawn_reason", reason),
    ]


class Migration(migrations.Migration):
    dependencies = [
        ("labeling", "0014_skips_can_be_undone"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        *withdrawable("prompt"),
        *withdrawable("response"),
        *withdrawable("task"),
        migrations.AddField(
            "task",
            "out_of_use",
            models.BooleanField(
                db_default=False,
                default=False,
                editable=False,
                help_text="The task or its prompt is withdrawn, or too few of its responses are "
                "left. labeling.removal.withdrawing.refresh writes it.",
            ),
        ),
        migrations.AddField(
            "taskresponse",
            "withdrawn",
            models.BooleanField(
                db_default=False,
                default=False,
                editable=False,
                help_text="Whether the response is withdrawn, copied here so that a claim needs "
                "no join.",
            ),
        ),
        migrations.AddIndex(
            "prompt",
            models.Index(
                models.F("project"),
                models.F("id"),
                condition=Q(("withdrawn_at__isnull", False)),
                name="prompt_withdrawn",
            ),
        ),
        migrations.AddIndex(
            "response",
            models.Index(
                models.F("prompt"),
                models.F("id"),
                condition=Q(("withdrawn_at__isnull", False)),
                name="response_withdrawn",
            ),
        ),
        migrations.AddIndex(
            "task",
            models.Index(
                models.F("project"),
                models.F("id"),
                condition=Q(("out_of_use", True)),
                name="task_out_of_use",
            ),
        ),
        migrations.AddConstraint(
            "task",
            models.CheckConstraint(
                condition=Q(("withdrawn_at", None), ("out_of_use", True), _connector="OR"),
                name="task_withdrawn_is_out_of_use",
            ),
        ),
        migrations.RunSQL(RANKED_TASK_FROZEN, RANKED_TASK_FROZEN_BEFORE),
    ]

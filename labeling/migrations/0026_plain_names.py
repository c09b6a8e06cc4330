"""Rename Slot.had_by to past_reviewers and Task.out_of_use to inactive, and reword a label.

Columns, constraint, index and trigger are renamed in place, which takes no time.
"""

from django.db import migrations, models
from django.db.models import Q

TRIGGER = """
ALTER TABLE labeling_slot RENAME COLUMN {old} TO {new};
DROP FUNCTION tiebreak_slot_{old} CASCADE;
CREATE FUNCTION tiebreak_slot_{new}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT coalesce(OLD.reviewer_id = ANY(NEW.{new}), false) THEN
        NEW.{new} := array_append(NEW.{new}, OLD.reviewer_id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER slot_{new} BEFORE UPDATE OF reviewer_id ON labeling_slot
    FOR EACH ROW WHEN (OLD.reviewer_id IS DISTINCT FROM NEW.reviewer_id
                       AND OLD.reviewer_id IS NOT NULL)
    EXECUTE FUNCTION tiebreak_slot_{new}();
"""
TASKS = """
ALTER TABLE labeling_task RENAME COLUMN {old} TO {new};
ALTER TABLE labeling_task RENAME CONSTRAINT task_withdrawn_is_{old} TO task_withdrawn_is_{new};
ALTER INDEX task_{old} RENAME TO task_{new};
"""


def rename(sql: str, old: str, new: str) -> migrations.RunSQL:
    return migrations.RunSQL(sql.format(old=old, new=new), sql.format(old=new, new=old))


class Migration(migrations.Migration):
    dependencies = [("labeling", "0025_cheaper_check_of_tasks")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[rename(TRIGGER, "had_by", "past_reviewers")],
            state_operations=[migrations.RenameField("slot", "had_by", "past_reviewers")],
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[rename(TASKS, "out_of_use", "inactive")],
            state_operations=[
                migrations.RemoveConstraint("task", "task_withdrawn_is_out_of_use"),
                migrations.RemoveIndex("task", "task_out_of_use"),
                migrations.RenameField("task", "out_of_use", "inactive"),
                migrations.AddConstraint(
                    "task",
                    models.CheckConstraint(
                        condition=Q(("withdrawn_at", None), ("inactive", True), _connector="OR"),
                        name="task_withdrawn_is_inactive",
                    ),
                ),
                migrations.AddIndex(
                    "task",
                    models.Index(
                        models.F("project"),
                        models.F("id"),
                        condition=Q(("inactive", True)),
                        name="task_inactive",
                    ),
                ),
            ],
        ),
        migrations.AlterField(
            "task",
            "inactive",
            models.BooleanField(
                db_default=False,
                default=False,
                editable=False,
                help_text="The task or its prompt is withdrawn, or too few of its responses are left. "
                "labeling.queue.withdrawals.refresh writes it.",
            ),
        ),
        migrations.AlterField(
            "skip",
            "reason",
            models.CharField(
                choices=[
                    ("unclear", "The prompt is unclear"),
                    ("expertise", "I do not know the subject"),
                    ("guideline", "Not covered by the guideline"),
                    ("harmful", "I do not want to read this"),
                    ("broken", "Something is broken"),
                    ("other", "Something else"),
                ],
                max_length=16,
            ),
        ),
    ]

"""Gold names its project, and a slot remembers whose it was before."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

# Whatever ends a lease without an answer, the row remembers: code cannot forget to say so.
PAST_LEASES = """
CREATE FUNCTION tiebreak_slot_had_by() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT coalesce(OLD.reviewer_id = ANY(NEW.had_by), false) THEN
        NEW.had_by := array_append(NEW.had_by, OLD.reviewer_id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER slot_had_by BEFORE UPDATE OF reviewer_id ON labeling_slot
    FOR EACH ROW WHEN (OLD.reviewer_id IS DISTINCT FROM NEW.reviewer_id
                       AND OLD.reviewer_id IS NOT NULL)
    EXECUTE FUNCTION tiebreak_slot_had_by();
"""


class Migration(migrations.Migration):
    dependencies = [("labeling", "0007_dropped_findings")]

    operations = [
        migrations.AlterModelOptions(name="gold", options={"verbose_name_plural": "gold"}),
        migrations.AddField(
            model_name="gold",
            name="project",
            field=models.ForeignKey(
                db_index=False,
                help_text="The task's.",
                on_delete=django.db.models.deletion.CASCADE,
                related_name="gold",
                to="labeling.project",
            ),
            preserve_default=False,
        ),
        migrations.AddIndex(
            model_name="gold",
            index=models.Index(
                models.F("project"), models.F("purpose"), models.F("id"), name="gold_of_project"
            ),
        ),
        migrations.AddField(
            model_name="slot",
            name="had_by",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.BigIntegerField(),
                help_text="Whose it was before (a trigger writes it): their late ranking is kept.",
                null=True,
                size=None,
            ),
        ),
        migrations.RunSQL(PAST_LEASES, "DROP FUNCTION tiebreak_slot_had_by CASCADE;"),
    ]

"""Tasks remember that sequential overlap stopped; a removed reviewer's reservations are freed."""

from django.db import migrations, models

# Members are removed in the admin, on pages and by commands: the database frees what they held,
# as code cannot forget to. Like a lease that ran out, a freed slot keeps an unfinished draft. Rows
# are locked in the order of their ids, as a claim locks them.
FREE_RESERVATIONS = """
CREATE FUNCTION tiebreak_free_reservations(person bigint, of_project bigint) RETURNS void
LANGUAGE sql AS $$
    WITH held AS MATERIALIZED (
        SELECT id FROM labeling_slot
        WHERE reviewer_id = person AND leased_until IS NOT NULL
          AND (of_project IS NULL OR project_id = of_project)
        ORDER BY id FOR UPDATE
    )
    UPDATE labeling_slot slot SET
        reviewer_id = NULL, leased_until = NULL, ahead = false,
        shown_order = CASE WHEN draft_by_id IS NOT NULL THEN shown_order END,
        shown_at = CASE WHEN draft_by_id IS NOT NULL THEN shown_at END,
        position = nextval('labeling_queue_position')
    FROM held WHERE held.id = slot.id
$$;

CREATE FUNCTION tiebreak_member_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tiebreak_free_reservations(OLD.user_id, OLD.project_id);
    RETURN NULL;
END $$;
CREATE TRIGGER member_removed AFTER DELETE ON labeling_membership
    FOR EACH ROW EXECUTE FUNCTION tiebreak_member_removed();
CREATE TRIGGER member_replaced AFTER UPDATE OF user_id, project_id ON labeling_membership
    FOR EACH ROW WHEN (OLD.user_id <> NEW.user_id OR OLD.project_id <> NEW.project_id)
    EXECUTE FUNCTION tiebreak_member_removed();

CREATE FUNCTION tiebreak_user_deactivated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tiebreak_free_reservations(NEW.id, NULL);
    RETURN NULL;
END $$;
CREATE TRIGGER user_deactivated AFTER UPDATE OF is_active ON accounts_user
    FOR EACH ROW WHEN (OLD.is_active AND NOT NEW.is_active)
    EXECUTE FUNCTION tiebreak_user_deactivated();
"""
KEEP_RESERVATIONS = """
DROP TRIGGER user_deactivated ON accounts_user;
DROP TRIGGER member_replaced ON labeling_membership;
DROP TRIGGER member_removed ON labeling_membership;
DROP FUNCTION tiebreak_user_deactivated();
DROP FUNCTION tiebreak_member_removed();
DROP FUNCTION tiebreak_free_reservations(bigint, bigint);
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("labeling", "0016_erasing"),
    ]

    operations = [
        migrations.AddField(
            model_name="task",
            name="stopped_below",
            field=models.PositiveSmallIntegerField(
                editable=False,
                help_text="How many rankings sequential overlap could have asked for when it "
                "stopped asking. Null: it did not decide about this task.",
                null=True,
            ),
        ),
        migrations.RunSQL(FREE_RESERVATIONS, KEEP_RESERVATIONS),
    ]

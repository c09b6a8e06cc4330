"""What no constraint can say: published guidelines and submitted rankings never change."""

from django.db import migrations

FROZEN_GUIDELINE = """
CREATE FUNCTION tiebreak_guideline_version_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'published' THEN
        RAISE EXCEPTION 'guideline version % is published and cannot be changed', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
CREATE TRIGGER guideline_version_frozen BEFORE UPDATE OR DELETE ON labeling_guidelineversion
    FOR EACH ROW EXECUTE FUNCTION tiebreak_guideline_version_frozen();

CREATE FUNCTION tiebreak_criterion_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE version bigint;
BEGIN
    version := COALESCE(OLD.version_id, NEW.version_id);
    IF EXISTS (SELECT 1 FROM labeling_guidelineversion
               WHERE id IN (OLD.version_id, NEW.version_id) AND state = 'published') THEN
        RAISE EXCEPTION 'guideline version % is published, its criteria cannot be changed', version
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
CREATE TRIGGER criterion_frozen BEFORE INSERT OR UPDATE OR DELETE ON labeling_criterion
    FOR EACH ROW EXECUTE FUNCTION tiebreak_criterion_frozen();
"""

FROZEN_RANKING = """
CREATE FUNCTION tiebreak_ranking_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR to_jsonb(OLD) - 'superseded_at' <> to_jsonb(NEW) - 'superseded_at' THEN
        RAISE EXCEPTION 'ranking % was submitted and cannot be changed; a revision supersedes it',
            OLD.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER ranking_frozen BEFORE UPDATE OR DELETE ON labeling_ranking
    FOR EACH ROW EXECUTE FUNCTION tiebreak_ranking_frozen();
"""

TASK_SIZE = """
CREATE FUNCTION tiebreak_task_size() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE responses integer;
BEGIN
    SELECT count(*) INTO responses FROM labeling_taskresponse WHERE task_id = NEW.id;
    IF responses NOT BETWEEN 2 AND 9 AND EXISTS (SELECT 1 FROM labeling_task WHERE id = NEW.id) THEN
        RAISE EXCEPTION 'task % has % responses; a task ranks 2 to 9', NEW.id, responses
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER task_size AFTER INSERT ON labeling_task
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tiebreak_task_size();
"""

QUEUE_POSITION = "CREATE SEQUENCE labeling_queue_position;"


class Migration(migrations.Migration):
    dependencies = [("labeling", "0001_initial")]

    operations = [
        migrations.RunSQL(
            FROZEN_GUIDELINE,
            "DROP FUNCTION tiebreak_guideline_version_frozen CASCADE;"
            "DROP FUNCTION tiebreak_criterion_frozen CASCADE;",
        ),
        migrations.RunSQL(FROZEN_RANKING, "DROP FUNCTION tiebreak_ranking_frozen CASCADE;"),
        migrations.RunSQL(TASK_SIZE, "DROP FUNCTION tiebreak_task_size CASCADE;"),
        migrations.RunSQL(QUEUE_POSITION, "DROP SEQUENCE labeling_queue_position;"),
    ]

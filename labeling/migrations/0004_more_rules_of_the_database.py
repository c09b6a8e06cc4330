"""Rules over several rows, and settings that keep the front of the queue short."""

from django.db import migrations

# A plan made while the tables were empty would read them whole, once for each task of an import.
TASK_SIZE = """
CREATE OR REPLACE FUNCTION tiebreak_check_task(checked bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE responses integer; strangers integer;
BEGIN
    SELECT count(*), count(*) FILTER (WHERE response.prompt_id <> task.prompt_id)
        INTO responses, strangers
        FROM labeling_task task
        JOIN labeling_taskresponse place ON place.task_id = task.id
        JOIN labeling_response response ON response.id = place.response_id
        WHERE task.id = checked;
    IF strangers > 0 THEN
        RAISE EXCEPTION 'task % holds responses to another prompt than its own', checked
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF responses NOT BETWEEN 2 AND 9 AND EXISTS (SELECT FROM labeling_task WHERE id = checked) THEN
        RAISE EXCEPTION 'task % has % responses; a task ranks 2 to 9', checked, responses
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
END $$;
CREATE OR REPLACE FUNCTION tiebreak_task_size() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tiebreak_check_task(NEW.id);
    RETURN NULL;
END $$;
CREATE FUNCTION tiebreak_task_kept_its_size() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tiebreak_check_task(OLD.task_id);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER task_kept_its_size
    AFTER DELETE OR UPDATE OF task_id, response_id ON labeling_taskresponse
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tiebreak_task_kept_its_size();
CREATE FUNCTION tiebreak_ranked_task_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM labeling_ranking
               WHERE task_id = COALESCE(OLD.task_id, NEW.task_id)) THEN
        RAISE EXCEPTION 'task % has rankings; the responses it ranks cannot be changed',
            COALESCE(OLD.task_id, NEW.task_id) USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
CREATE TRIGGER ranked_task_frozen BEFORE UPDATE OR DELETE ON labeling_taskresponse
    FOR EACH ROW EXECUTE FUNCTION tiebreak_ranked_task_frozen();
"""

TASK_SIZE_BACK = """
DROP FUNCTION tiebreak_ranked_task_frozen CASCADE;
DROP FUNCTION tiebreak_task_kept_its_size CASCADE;
"""

SUPERSEDED_ONCE = """
CREATE OR REPLACE FUNCTION tiebreak_ranking_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.superseded_at IS NOT NULL
       OR to_jsonb(OLD) - 'superseded_at' <> to_jsonb(NEW) - 'superseded_at' THEN
        RAISE EXCEPTION 'ranking % was submitted and cannot be changed; a revision supersedes it',
            OLD.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
"""

SLOT_OF_ITS_TASK = """
CREATE FUNCTION tiebreak_slot_ranking() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM labeling_ranking WHERE id = NEW.ranking_id
                   AND task_id = NEW.task_id AND reviewer_id = NEW.reviewer_id) THEN
        RAISE EXCEPTION 'slot % cannot be filled by ranking %, of another task or reviewer',
            NEW.id, NEW.ranking_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER slot_ranking BEFORE INSERT OR UPDATE OF ranking_id ON labeling_slot
    FOR EACH ROW WHEN (NEW.ranking_id IS NOT NULL) EXECUTE FUNCTION tiebreak_slot_ranking();
"""

QUEUE_STORAGE = """
ALTER TABLE labeling_slot ALTER COLUMN position SET DEFAULT nextval('labeling_queue_position');
ALTER TABLE labeling_slot SET (
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.05
);
ALTER TABLE labeling_queuecursor SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
"""

QUEUE_STORAGE_BACK = """
ALTER TABLE labeling_slot ALTER COLUMN position DROP DEFAULT;
ALTER TABLE labeling_slot RESET (
    fillfactor, autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor
);
ALTER TABLE labeling_queuecursor RESET (fillfactor, autovacuum_vacuum_scale_factor);
"""


class Migration(migrations.Migration):
    dependencies = [("labeling", "0003_cheaper_queue")]

    operations = [
        migrations.RunSQL(TASK_SIZE, TASK_SIZE_BACK),
        migrations.RunSQL(SUPERSEDED_ONCE, migrations.RunSQL.noop),
        migrations.RunSQL(SLOT_OF_ITS_TASK, "DROP FUNCTION tiebreak_slot_ranking CASCADE;"),
        migrations.RunSQL(QUEUE_STORAGE, QUEUE_STORAGE_BACK),
    ]

"""Check the responses of a task without a join, whose cost depended on the planner's statistics.

The join was planned once for all tasks of an import. After a rolled-back import, vacuum can set the
number of rows of the tables to 0. The plan then read all responses for each task, and 20,000 pairs
took over 100 seconds; now they take 4. PostgreSQL does not reorder a subquery.
"""

from django.db import migrations

CHECK_TASK = """
CREATE OR REPLACE FUNCTION tiebreak_check_task(checked bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off AS $$
DECLARE prompt bigint; responses integer; strangers integer;
BEGIN
    SELECT prompt_id INTO prompt FROM labeling_task WHERE id = checked;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT count(*), count(*) FILTER (WHERE prompt <> (
            SELECT response.prompt_id FROM labeling_response response
            WHERE response.id = place.response_id))
        INTO responses, strangers
        FROM labeling_taskresponse place WHERE place.task_id = checked;
    IF strangers > 0 THEN
        RAISE EXCEPTION 'task % holds responses to another prompt than its own', checked
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF responses NOT BETWEEN 2 AND 9 THEN
        RAISE EXCEPTION 'task % has % responses; a task ranks 2 to 9', checked, responses
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
END $$;
"""

CHECK_TASK_BEFORE = """
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
"""


class Migration(migrations.Migration):
    dependencies = [("labeling", "0024_help_texts")]

    operations = [migrations.RunSQL(CHECK_TASK, CHECK_TASK_BEFORE)]

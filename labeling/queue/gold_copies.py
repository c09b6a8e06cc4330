"""Gold tasks that were made from ordinary tasks, and have the same prompt and responses.

The original task is no longer given out, because anyone who saw one of the two would recognise the other.
"""

from collections.abc import Collection

from django.db import connection

GOLD_COPIES = """
SELECT original.id AS task_id, gold.id AS gold_id
FROM labeling_gold gold
JOIN labeling_task copy ON copy.id = gold.task_id
JOIN labeling_task original ON original.prompt_id = copy.prompt_id AND original.id <> copy.id
WHERE gold.retired_at IS NULL
  AND ARRAY(SELECT place.response_id FROM labeling_taskresponse place
            WHERE place.task_id = copy.id ORDER BY place.response_id)
    = ARRAY(SELECT place.response_id FROM labeling_taskresponse place
            WHERE place.task_id = original.id ORDER BY place.response_id)
"""
"""A subquery for pairs of ids: a task, and the active gold task that was made from it."""


def copies_of(tasks: Collection[int]) -> dict[int, int]:
    """Return the id of the active gold task that was made from each task, keyed by the task's id."""
    if not tasks:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT * FROM ({GOLD_COPIES}) copies WHERE task_id = ANY(%(tasks)s)",  # noqa: S608
            {"tasks": list(tasks)},
        )
        return dict(cursor.fetchall())

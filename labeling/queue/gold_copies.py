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
"""A subquery for the ids of tasks (task_id) and of the active gold made from them (gold_id)."""


def copies_of(tasks: Collection[int]) -> dict[int, int]:
    """Return the ids of the active gold that was made from these tasks, keyed by task id."""
    if not tasks:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT * FROM ({GOLD_COPIES}) copies WHERE task_id = ANY(%(tasks)s)",  # noqa: S608
            {"tasks": list(tasks)},
        )
        return dict(cursor.fetchall())

"""Rules of the queue that no crash and no concurrency may break."""

from typing import Any

BROKEN = {
    "slots_filled_twice": """
        SELECT count(*) FROM labeling_slot slot JOIN labeling_ranking ranking
            ON ranking.id = slot.ranking_id
        WHERE ranking.superseded_at IS NOT NULL OR ranking.extra
            OR ranking.task_id <> slot.task_id OR ranking.reviewer_id <> slot.reviewer_id""",
    "rankings_without_a_slot": """
        SELECT count(*) FROM labeling_ranking ranking WHERE superseded_at IS NULL AND NOT extra
            AND (SELECT count(*) FROM labeling_slot WHERE ranking_id = ranking.id) <> 1""",
    "reviewers_twice_on_a_task": """
        SELECT count(*) FROM (SELECT FROM labeling_ranking WHERE superseded_at IS NULL
            GROUP BY task_id, reviewer_id HAVING count(*) > 1) twice""",
    "tasks_with_more_rankings_than_wanted": """
        SELECT count(*) FROM (SELECT FROM labeling_ranking ranking
            JOIN labeling_task task ON task.id = ranking.task_id
            WHERE superseded_at IS NULL AND NOT extra
            GROUP BY task.id HAVING count(*) > task.rankings_wanted) more""",
    "reviewers_with_two_leases_of_a_kind": """
        SELECT count(*) FROM (SELECT FROM labeling_slot WHERE leased_until IS NOT NULL
            GROUP BY project_id, reviewer_id, ahead HAVING count(*) > 1) twice""",
    "leases_of_ranked_tasks": """
        SELECT count(*) FROM labeling_slot slot JOIN labeling_ranking ranking
            ON ranking.task_id = slot.task_id AND ranking.reviewer_id = slot.reviewer_id
        WHERE slot.leased_until IS NOT NULL AND ranking.superseded_at IS NULL""",
}
"""Queries that count the violations of a rule."""


def broken_rules(database: Any) -> dict[str, int]:
    """Return the number of violations of each rule. `database` is a connection of psycopg."""
    return {name: database.execute(query).fetchone()[0] for name, query in BROKEN.items()}

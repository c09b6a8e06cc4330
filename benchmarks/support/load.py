"""A bulk load of a project as it is after a year of reviewing.

SQL inserts the rows with triggers and foreign keys disabled for speed; the rules that these enforce
are checked afterwards. 60 % of the tasks have all three rankings, 20 % have one and 20 % none: on
average two rankings and one free slot per task. All reviewers have ranked equally often, and half
of them take part in the benchmark.

Measured on two busy cores: 10,000 tasks in 3 s, 100,000 in 40 s, 1,000,000 in about 8 min and 6 GB.
"""

from typing import Any

SLUG = "bench"
OVERLAP = 3
RESPONSES = 4
DAYS = 365

ROWS = {
    "prompts": """
        INSERT INTO labeling_prompt
            (id, project_id, messages, content_hash, external_id, meta, created_at)
        SELECT n, %(project)s, jsonb_build_array(jsonb_build_object('role', 'user', 'content',
            repeat('What should I do about the lamp? ', 4) || n)), md5(n::text), '', '{}', now()
        FROM generate_series(1, %(tasks)s) n""",
    "responses": """
        INSERT INTO labeling_response
            (id, prompt_id, text, model_name, sampling, external_id, identity, created_at)
        SELECT (n - 1) * %(k)s + r, n, repeat('You could turn it *off* and on again. ', 6 + r)
            || n, 'model-' || r, '{}', '', r::text, now()
        FROM generate_series(1, %(tasks)s) n, generate_series(1, %(k)s) r""",
    "tasks": """
        INSERT INTO labeling_task (id, project_id, prompt_id, kind, priority, rankings_wanted,
            identity, created_at)
        SELECT n, %(project)s, n, 'ranking', 5, %(overlap)s, md5(n::text), now()
        FROM generate_series(1, %(tasks)s) n""",
    "places": """
        INSERT INTO labeling_taskresponse (task_id, response_id, position)
        SELECT n, (n - 1) * %(k)s + r, r - 1
        FROM generate_series(1, %(tasks)s) n, generate_series(1, %(k)s) r""",
    "rankings": """
        INSERT INTO labeling_ranking (id, task_id, reviewer_id, guideline_version_id, tiers, ratings,
            flags, rationale, shown_order, active_seconds, source, idempotency_key, extra, created_at)
        SELECT (n - 1) * %(overlap)s + s, n,
            (%(people)s::bigint[])[1 + mod(n * 7 + s, cardinality(%(people)s::bigint[]))],
            %(version)s,
            CASE WHEN mod(n + s, 5) = 0
                THEN jsonb_build_array(jsonb_build_array(b + 1), jsonb_build_array(b + 2, b + 4),
                    jsonb_build_array(b + 3))
                ELSE jsonb_build_array(jsonb_build_array(b + 2), jsonb_build_array(b + 1),
                    jsonb_build_array(b + 3), jsonb_build_array(b + 4)) END,
            '{}', '{}', '', ARRAY[b + 1, b + 2, b + 3, b + 4], 20 + mod(n, 40), 'review',
            md5('r' || n || '-' || s)::uuid, false,
            now() - %(days)s * interval '1 day' * (1 - n::float8 / %(tasks)s)
        FROM generate_series(1, %(tasks)s) n, generate_series(1, %(overlap)s) s,
            LATERAL (SELECT (n - 1) * %(k)s AS b) base
        WHERE n <= %(tasks)s * 0.6 OR (s = 1 AND n <= %(tasks)s * 0.8)""",
    "slots": """
        INSERT INTO labeling_slot
            (task_id, number, project_id, priority, position, reviewer_id, ranking_id, shown_order)
        SELECT n, s, %(project)s, 5, nextval('labeling_queue_position'), ranking.reviewer_id,
            ranking.id, ranking.shown_order
        FROM generate_series(1, %(tasks)s) n CROSS JOIN generate_series(1, %(overlap)s) s
        LEFT JOIN labeling_ranking ranking ON ranking.id = (n - 1) * %(overlap)s + s
        ORDER BY n, s""",
}

WRONG = {
    "responses to another prompt": """
        SELECT count(*) FROM labeling_taskresponse place
        JOIN labeling_task task ON task.id = task_id JOIN labeling_response ON
        labeling_response.id = response_id WHERE labeling_response.prompt_id <> task.prompt_id""",
    "tasks of another size": """
        SELECT count(*) FROM (SELECT FROM labeling_taskresponse GROUP BY task_id
            HAVING count(*) <> %(k)s) odd""",
    "slots filled by a ranking that is not theirs": """
        SELECT count(*) FROM labeling_slot slot LEFT JOIN labeling_ranking ranking
            ON ranking.id = slot.ranking_id
        WHERE slot.ranking_id IS NOT NULL AND (ranking.task_id IS DISTINCT FROM slot.task_id
            OR ranking.reviewer_id IS DISTINCT FROM slot.reviewer_id)""",
    "rankings without a slot": """
        SELECT count(*) FROM labeling_ranking ranking
        LEFT JOIN labeling_slot slot ON slot.ranking_id = ranking.id WHERE slot.id IS NULL""",
}


def load(tasks: int, reviewers: int) -> dict[str, int]:
    """Fill the migrated database of this process, and return counts of its rows.

    Creates twice as many accounts as `reviewers`. Raises ValueError when a row breaks a rule.
    """
    from django.db import connection, transaction

    values = make_project(tasks, reviewers)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("SET LOCAL synchronous_commit = off")
        cursor.execute("SET LOCAL work_mem = '256MB'")
        for statement in ROWS.values():
            cursor.execute(statement, values)
        for table in ("prompt", "response", "task", "ranking"):
            cursor.execute(
                f"SELECT setval(pg_get_serial_sequence('labeling_{table}', 'id'), max(id))"  # noqa: S608 - a constant
                f" FROM labeling_{table}"
            )
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE, FREEZE)")
        for name, query in WRONG.items():
            cursor.execute(query, values)
            if count := cursor.fetchone()[0]:
                raise ValueError(f"The bulk load is wrong: {count} {name}.")
        cursor.execute("SELECT count(*) FROM labeling_ranking")
        rankings = cursor.fetchone()[0]
        cursor.execute("SELECT pg_database_size(current_database())")
        return {"tasks": tasks, "past_rankings": rankings, "bytes": cursor.fetchone()[0]}


def make_project(tasks: int, reviewers: int) -> dict[str, Any]:
    from accounts.models import User
    from labeling.guidelines import versions
    from labeling.models import GuidelineConfirmation, Membership, Project

    project = Project.objects.create(slug=SLUG, name="Bench", rankings_per_task=OVERLAP)
    draft = versions.create_draft(
        project=project, by=None, text="Be **kind**.\n\n- Say what is true.\n- Be short.",
        criteria=[{"name": "honesty", "meaning": "Says what is true.", "scale": 5}],
    )  # fmt: skip
    version = versions.publish(version=draft, by=None)
    people = User.objects.bulk_create(
        User(username=f"reviewer-{number}") for number in range(2 * reviewers)
    )
    Membership.objects.bulk_create(Membership(project=project, user=user) for user in people)
    GuidelineConfirmation.objects.bulk_create(
        GuidelineConfirmation(version=version, reviewer=user) for user in people
    )
    User.objects.create(username="lead", role="trainer", is_superuser=True)
    return {
        "project": project.pk, "version": version.pk, "tasks": tasks, "k": RESPONSES,
        "overlap": OVERLAP, "days": DAYS, "people": [user.pk for user in people],
    }  # fmt: skip

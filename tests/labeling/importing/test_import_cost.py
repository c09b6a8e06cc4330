"""The cost of an import in PostgreSQL, counted in rows read."""

import pytest
from django.db import connection, transaction

from benchmarks.import_rows import SHAPES, write_file
from labeling.importing import writer
from labeling.importing.reading import import_file
from tests.labeling.world import make_project

pytestmark = pytest.mark.django_db(transaction=True)
ROWS = 1500
TABLES = ("prompt", "response", "task", "taskresponse", "slot", "ranking")


def rows_read(columns: str, tables: str = "%") -> int:
    """Return the rows that this connection has read since it last reported them to PostgreSQL.

    It reports between transactions, at most once a second. So the rows of a transaction are the
    difference between its end and its start.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT coalesce(sum({columns}), 0) FROM pg_stat_xact_user_tables"
            " WHERE relname SIMILAR TO %s",
            [tables],
        )
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("shape", ["pairs", "single"])
def test_the_rows_read_do_not_multiply_after_an_import_was_rolled_back(tmp_path, shape):
    """Import after a vacuum of rolled-back rows, when the planner expects empty tables."""
    suffix, values = SHAPES[shape]
    path = tmp_path / f"file{suffix}"
    write_file(path, values, ROWS)
    project = make_project()
    with transaction.atomic():
        import_file(path, project=project)
        transaction.set_rollback(True)
    with connection.cursor() as cursor:
        for name in TABLES:
            cursor.execute(f"VACUUM (TRUNCATE off) labeling_{name}")
    columns = "coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)"
    with transaction.atomic():
        before = rows_read(columns)
        import_file(path, project=project)
        assert rows_read(columns) - before < 60 * ROWS


def test_no_batch_scans_the_responses_of_earlier_batches(tmp_path, monkeypatch):
    """Without statistics, the planner would scan the whole table for the prompts of a batch."""
    monkeypatch.setattr(writer, "PROMPT_BATCH_SIZE", 50)
    path = tmp_path / "file.jsonl"
    write_file(path, SHAPES["single"][1], ROWS)
    project = make_project()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE, TRUNCATE) labeling_prompt, labeling_response")
    scanned = ("seq_tup_read", "labeling_(prompt|response)")
    with transaction.atomic():
        before = rows_read(*scanned)
        import_file(path, project=project)
        assert rows_read(*scanned) - before < ROWS

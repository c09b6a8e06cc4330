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


def rows_read() -> int:
    """Return the rows that this transaction has read from all tables."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))"
            " FROM pg_stat_xact_user_tables"
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
    with transaction.atomic():
        import_file(path, project=project)
        assert rows_read() < 60 * ROWS


def test_no_batch_scans_the_responses_of_earlier_batches(tmp_path, monkeypatch):
    """Without statistics, the planner would scan the whole table for the prompts of a batch."""
    monkeypatch.setattr(writer, "PROMPT_BATCH_SIZE", 50)
    path = tmp_path / "file.jsonl"
    write_file(path, SHAPES["single"][1], ROWS)
    project = make_project()
    with transaction.atomic(), connection.cursor() as cursor:
        import_file(path, project=project)
        cursor.execute(
            "SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_xact_user_tables"
            " WHERE relname IN ('labeling_response', 'labeling_prompt')"
        )
        assert cursor.fetchone()[0] < ROWS

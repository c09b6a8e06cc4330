"""Bulk inserts with COPY."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection


def reserve_ids(table: str, count: int) -> list[int]:
    """Return `count` unused ids for rows that will be copied into the table. Costs one query."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)",
            [table, count],
        )
        return [row[0] for row in cursor.fetchall()]


def copy_rows(target: str, rows: Iterable[Sequence[Any]]) -> None:
    """Copy rows into `target`, which has the form `table (column, …)`.

    `target` becomes part of the SQL, so it must never come from input.
    """
    with (
        connection.cursor() as cursor,
        connection.wrap_database_errors,
        cursor.copy(f"COPY {target} FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)

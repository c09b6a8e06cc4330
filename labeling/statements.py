"""Statements that run with every ranking: PostgreSQL plans them once for a connection, not each time.

Planning the claim costs five times what running it does. Everything else goes through the ORM,
whose queries are bound in the client and never prepared.
"""

from collections.abc import Mapping
from typing import Any

from django.db import connection
from django.db.backends.postgresql.base import ServerBindingCursor


def fetch(sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """All rows of one statement, in the transaction at hand. JSON comes as text."""
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    with connection.wrap_database_errors:
        bound: Any = ServerBindingCursor(connection.connection)  # type: ignore[call-arg]
    wrap = connection.make_debug_cursor if connection.queries_logged else connection.make_cursor
    with wrap(bound) as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()

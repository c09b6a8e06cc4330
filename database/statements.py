"""Prepared statements for the queries of every request or ranking, planned once per connection.

Planning the claim of a slot takes five times as long as running it. All other queries use the ORM,
which binds parameters in the client and prepares nothing.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.backends.postgresql.base import ServerBindingCursor
from django.db.models import JSONField, Model

Row = TypeVar("Row", bound=Model)


def fetch(sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run a statement in the current transaction, and return its rows, with JSON values as text."""
    database = connections[
        DEFAULT_DB_ALIAS
    ]  # the proxy `connection` would look this up at each use
    database.close_if_health_check_failed()
    database.ensure_connection()
    with database.wrap_database_errors:
        bound: Any = ServerBindingCursor(database.connection)  # type: ignore[call-arg]
    wrap = database.make_debug_cursor if database.queries_logged else database.make_cursor
    with wrap(bound) as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def columns(model: type[Model], table: str = "") -> str:
    """Return the model's columns for a SELECT, in the order that `from_columns` expects."""
    prefix = f"{table}." if table else ""
    return ", ".join(f"{prefix}{field.column}" for field in model._meta.concrete_fields)


def from_columns(model: type[Row], values: Sequence[Any]) -> Row:
    """Return the model instance for a row that was selected with `columns`."""
    fields = model._meta.concrete_fields
    parsed = [
        json.loads(value) if isinstance(field, JSONField) and value is not None else value
        for field, value in zip(fields, values, strict=True)
    ]
    return model.from_db(connection.alias, [field.attname for field in fields], parsed)

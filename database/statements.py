"""Statements for what runs with every request or ranking: PostgreSQL plans them once a connection.

Planning the claim costs five times what running it does. Everything else goes through the ORM,
whose queries are bound in the client and never prepared.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from django.db import connection
from django.db.backends.postgresql.base import ServerBindingCursor
from django.db.models import JSONField, Model

Row = TypeVar("Row", bound=Model)


def fetch(sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> list[tuple[Any, ...]]:
    """All rows of one statement, in the transaction at hand. JSON comes as text."""
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    with connection.wrap_database_errors:
        bound: Any = ServerBindingCursor(connection.connection)  # type: ignore[call-arg]
    wrap = connection.make_debug_cursor if connection.queries_logged else connection.make_cursor
    with wrap(bound) as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def columns(model: type[Model], table: str = "") -> str:
    """All columns of the model, as `from_columns` reads them."""
    prefix = f"{table}." if table else ""
    return ", ".join(f"{prefix}{field.column}" for field in model._meta.concrete_fields)


def from_columns(model: type[Row], values: Sequence[Any]) -> Row:
    """The instance that a row of `columns` describes."""
    fields = model._meta.concrete_fields
    read = [
        json.loads(value) if isinstance(field, JSONField) and value is not None else value
        for field, value in zip(fields, values, strict=True)
    ]
    return model.from_db(connection.alias, [field.attname for field in fields], read)

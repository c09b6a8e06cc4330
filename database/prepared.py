"""Querysets whose SQL is built only once, for queries that every request runs.

For a short query, Django takes longer to build the SQL than PostgreSQL takes to run it. Without this
module, `benchmarks.queue --http` stored 151 rankings/s instead of 178 (two alternating runs each, on 2
cores); the goal is 200.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db import connection
from django.db.models import Model, QuerySet
from django.db.models.query import get_related_populators

from database.statements import fetch

M = TypeVar("M", bound=Model)

_PLACEHOLDERS: dict[type, Callable[[int], Any]] = {
    int: lambda number: -(10**15) - number,
    str: lambda number: f"\N{WHITE SQUARE}{number}\N{WHITE SQUARE}",
}


class Prepared(Generic[M]):
    """A query whose SQL is built at the first use and reused with other parameters.

    `build` returns the queryset. It is called once, with a placeholder for each parameter in `kinds`,
    which gives their types (int or str). If the SQL lacks one of the placeholders, the first use raises
    TypeError.
    """

    def __init__(self, build: Callable[..., QuerySet[M]], **kinds: type):
        self._build = build
        self._placeholders = {
            name: _PLACEHOLDERS[kind](number) for number, (name, kind) in enumerate(kinds.items())
        }
        self._plan: _Plan | None = None

    def first(self, **values: int | str | None) -> M | None:
        """Run the query, and return the first row as an instance, or None."""
        plan = self._plan = self._plan or self._compiled()
        parameters = [values[p.name] if isinstance(p, _Value) else p for p in plan.parameters]
        rows = fetch(plan.sql, parameters)
        return plan.instance(rows[0]) if rows else None

    def _compiled(self) -> "_Plan":
        compiler = self._build(**self._placeholders).query.get_compiler(connection=connection)
        sql, sql_parameters = compiler.as_sql()
        names = {value: name for name, value in self._placeholders.items()}
        parameters = [_Value(names[p]) if p in names else p for p in sql_parameters]
        if missing := set(names.values()) - {p.name for p in parameters if isinstance(p, _Value)}:
            raise TypeError(f"The SQL does not use {', '.join(sorted(missing))}: {sql}")
        columns = [column for column, *_ in compiler.select[: compiler.col_count]]
        return _Plan(sql, parameters, compiler, compiler.get_converters(columns))


@dataclass(frozen=True)
class _Value:
    name: str


@dataclass(frozen=True)
class _Plan:
    sql: str
    parameters: list[Any]
    compiler: Any
    converters: dict[int, Any]

    def instance(self, row: tuple[Any, ...]) -> Any:
        """Return the instance for a row, as django.db.models.query.ModelIterable does in Django 5.2."""
        select, info = self.compiler.select, self.compiler.klass_info
        fields = info["select_fields"]
        start, end = fields[0], fields[-1] + 1
        names = [column[0].target.attname for column in select[start:end]]
        [row] = self.compiler.apply_converters([row], self.converters)
        instance = info["model"].from_db(connection.alias, names, row[start:end])
        populators: Any = get_related_populators
        for populator in populators(info, select, connection.alias):
            populator.populate(row, instance)
        return instance

"""Querysets whose SQL is built once, for what every request asks.

Django takes longer to build the SQL of a short query than PostgreSQL takes to answer it. Without
this module, `benchmarks.queue --http` stored 151 rankings/s instead of 178 (two turns each, side by
side on 2 cores), and the goal is 200.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db import connection
from django.db.models import Model, QuerySet
from django.db.models.query import get_related_populators

from database.statements import fetch

M = TypeVar("M", bound=Model)

_STAND_INS: dict[type, Callable[[int], Any]] = {
    int: lambda number: -(10**15) - number,
    str: lambda number: f"\N{WHITE SQUARE}{number}\N{WHITE SQUARE}",
}


class Prepared(Generic[M]):
    """`build` makes the queryset from values of the kinds named (int or str), once, from stand-ins.

    Raises TypeError when `build` does not put every value into the SQL as it is.
    """

    def __init__(self, build: Callable[..., QuerySet[M]], **kinds: type):
        self._build = build
        self._stand_ins = {
            name: _STAND_INS[kind](number) for number, (name, kind) in enumerate(kinds.items())
        }
        self._plan: _Plan | None = None

    def first(self, **values: int | str | None) -> M | None:
        """One query; None when there is nothing."""
        plan = self._plan = self._plan or self._compiled()
        given = [values[p.name] if isinstance(p, _Value) else p for p in plan.parameters]
        rows = fetch(plan.sql, given)
        return plan.instance(rows[0]) if rows else None

    def _compiled(self) -> "_Plan":
        compiler = self._build(**self._stand_ins).query.get_compiler(connection=connection)
        sql, parameters = compiler.as_sql()
        names = {value: name for name, value in self._stand_ins.items()}
        found = [_Value(names[p]) if p in names else p for p in parameters]
        if missing := set(names.values()) - {p.name for p in found if isinstance(p, _Value)}:
            raise TypeError(f"The SQL does not ask for {', '.join(sorted(missing))}: {sql}")
        return _Plan(sql, found, compiler)


@dataclass(frozen=True)
class _Value:
    name: str


@dataclass(frozen=True)
class _Plan:
    sql: str
    parameters: list[Any]
    compiler: Any

    def instance(self, row: tuple[Any, ...]) -> Any:
        """As django.db.models.query.ModelIterable makes it (Django 5.2)."""
        select, info = self.compiler.select, self.compiler.klass_info
        fields = info["select_fields"]
        start, end = fields[0], fields[-1] + 1
        names = [column[0].target.attname for column in select[start:end]]
        [row] = self.compiler.results_iter([[row]])
        found = info["model"].from_db(connection.alias, names, row[start:end])
        populators: Any = get_related_populators
        for other in populators(info, select, connection.alias):
            other.populate(row, found)
        return found

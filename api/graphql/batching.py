"""Nested lists of a query, read for all their parents together.

The resolver of a list looks at the query below it, and reads each nested list with one statement for
all rows, however many there are. Without this, each row would cost a statement.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Prefetch, QuerySet
from strawberry.types import Info

FIRST = 20
LARGEST = 200


@dataclass(frozen=True)
class Nested:
    """A list inside an object: its relation in the model, its rows, and the lists inside it.

    `rows` returns the rows that the request may read, in their order.
    """

    relation: str
    rows: Callable[[Any], QuerySet[Any]]
    nested: Mapping[str, "Nested"]


def size(first: int) -> int:
    """Return the number of rows of a list that were asked for, within its limits."""
    return max(1, min(first, LARGEST))


def attribute(name: str, first: int) -> str:
    """Return the attribute of a row in which the rows of a nested list are stored."""
    return f"list_{name}_{size(first)}"


def with_nested(rows: QuerySet[Any], nested: Mapping[str, Nested], info: Info) -> QuerySet[Any]:
    """Return the rows, with the nested lists that the query asks for. One statement for each list."""
    inner = [child for field in info.selected_fields for child in field.selections]
    return _prefetched(rows, nested, _without_pages(inner), info.context["request"])


def _without_pages(selections: Iterable[Any]) -> list[Any]:
    """Return the fields of the rows, which are below `items` in a page."""
    fields = list(_fields(selections))
    items = [field for field in fields if field.name == "items"]
    return [child for field in items for child in field.selections] if items else fields


def _fields(selections: Iterable[Any]) -> Iterable[Any]:
    """Yield the fields, with those of fragments."""
    for selection in selections:
        if hasattr(selection, "arguments"):
            yield selection
        else:
            yield from _fields(selection.selections)


def _prefetched(
    rows: QuerySet[Any], nested: Mapping[str, Nested], selections: Iterable[Any], request: Any
) -> QuerySet[Any]:
    below: dict[tuple[str, int], list[Any]] = {}
    for field in _fields(selections):
        if field.name in nested:
            first = size(int(field.arguments.get("first") or FIRST))
            below.setdefault((field.name, first), []).extend(field.selections)
    for (name, first), children in below.items():
        child = nested[name]
        inner = _prefetched(child.rows(request), child.nested, children, request)
        rows = rows.prefetch_related(
            Prefetch(child.relation, queryset=inner[:first], to_attr=attribute(name, first))
        )
    return rows

"""Pages of lists. A page ends with the id of its last row, after which the next page begins."""

from collections.abc import Callable
from math import isfinite
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from django.db.models import Model, QuerySet
from ninja import Query, Schema
from pydantic import ConfigDict, Field, model_validator

from labeling.core.text import storable

LARGEST = 1000

Row = TypeVar("Row", bound=Model)
Item = TypeVar("Item")

Number = Annotated[int, Field(ge=1, le=2**62)]
After = Annotated[
    int | None, Query(ge=0, le=2**62, description="The `next` of the page before this one.")
]
Limit = Annotated[int, Query(ge=1, le=LARGEST, description="Largest number of items of the page.")]


class Strict(Schema):
    """A body in which unknown fields are errors, and so are values that cannot be stored.

    A subclass with `checks_values = False` checks its values itself.
    """

    model_config = ConfigDict(extra="forbid")
    checks_values: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check_values(self) -> "Strict":
        if self.checks_values:
            for name in type(self).model_fields:
                _check_storable(getattr(self, name), name)
        return self


def _check_storable(value: Any, path: str) -> None:
    """Raise ValueError for text and numbers that PostgreSQL cannot store."""
    if isinstance(value, str) and storable(value) != value:
        raise ValueError(f"{path} has a character that cannot be stored: NUL, or half a surrogate")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{path} must be a finite number")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_storable(key, path)
            _check_storable(item, f"{path}.{key}"[:200])
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, path)


class Page(Schema, Generic[Item]):
    items: list[Item]
    next: int | None = Field(
        None, description="Value of `after` for the next page; null on the last page."
    )


def page(
    rows: QuerySet[Row],
    read: Callable[[Row], Any],
    *,
    after: int | None,
    limit: int,
    newest_first: bool = False,
) -> dict[str, Any]:
    """Return a page of rows, ordered by id. It costs one query."""
    rows = rows.order_by("-pk" if newest_first else "pk")
    if after is not None:
        rows = rows.filter(**{"pk__lt" if newest_first else "pk__gt": after})
    found = list(rows[: limit + 1])
    more = len(found) > limit
    items = found[:limit]
    return {"items": [read(row) for row in items], "next": items[-1].pk if more else None}

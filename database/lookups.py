from collections.abc import Iterable
from typing import Any

from django.db.models import BooleanField, Func, Value


class AnyOf(Func):
    """Whether a column holds one of many values, as in `filter(AnyOf("pk", ids))`.

    The values are one parameter. `pk__in` prepares each by itself: for 2,000 ids that takes 8 ms,
    longer than the query.
    """

    template = "%(expressions)s)"
    arg_joiner = " = ANY("
    output_field = BooleanField()

    def __init__(self, column: str, values: Iterable[Any]) -> None:
        super().__init__(column, Value(list(values)))

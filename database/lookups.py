from collections.abc import Iterable
from typing import Any

from django.db.models import BooleanField, Func, Value


class AnyOf(Func):
    """A condition that a column holds one of many values, as in `filter(AnyOf("pk", ids))`.

    All values are one array parameter. `pk__in` prepares each value separately: a query for 2,000
    ids takes 7 ms of Python's time with it and 2 ms with this.
    """

    template = "%(expressions)s)"
    arg_joiner = " = ANY("
    output_field = BooleanField()

    def __init__(self, column: str, values: Iterable[Any]) -> None:
        super().__init__(column, Value(list(values)))

from collections.abc import Iterable
from typing import Any

from django.db.models import BooleanField, Func, Value


class AnyOf(Func):
    """A condition that a column holds one of many values, as in `filter(AnyOf("pk", ids))`.

    All values are one array parameter. `pk__in` prepares each value separately, which takes 8 ms
    for 2,000 ids, longer than the query itself.
    """

    template = "%(expressions)s)"
    arg_joiner = " = ANY("
    output_field = BooleanField()

    def __init__(self, column: str, values: Iterable[Any]) -> None:
        super().__init__(column, Value(list(values)))

"""The rows of other apps that runs refer to, such as models, for the filters of the list of runs.

`runs` knows no models and no snapshots. Their apps register here how runs refer to them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django.db.models import Q

from accounts.models import User

MOST_CHOICES = 200
"""The number of rows that a filter offers, newest first."""


@dataclass(frozen=True)
class Reference:
    """A kind of row that runs refer to by id.

    name      The name of the filter, such as "model".
    label     The label of the filter.
    keys      The names under which inputs or results contain the id, such as "candidate".
    choices   Returns (id, label) for the rows that the user may see, newest first. Costs one query.
    """

    name: str
    label: str
    keys: tuple[str, ...]
    choices: Callable[[User], Iterable[tuple[int, str]]]

    def matching(self, pk: int) -> Q:
        """Return the condition that a run read the row with this id, or created it."""
        matching = Q()
        for key in self.keys:
            matching |= Q(inputs__contains={key: pk}) | Q(result__contains={key: pk})
        return matching


_references: dict[str, Reference] = {}


def register(reference: Reference) -> None:
    if _references.setdefault(reference.name, reference) is not reference:
        raise ValueError(f"Two references have the name {reference.name!r}.")


def all_references() -> list[Reference]:
    return list(_references.values())

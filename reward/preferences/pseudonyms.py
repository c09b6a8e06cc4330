"""The names of reviewers in snapshots, exports and certificates.

A pseudonym is derived from a key and the number of the account. If a reviewer's data is withdrawn, the
pseudonym is burned: the pseudonyms of all others are stored, and the key is replaced. Nobody can then
derive the burned pseudonym from the account again, and no other account gets it.
"""

import hmac
from collections.abc import Collection, Mapping
from itertools import count

from django.db import transaction

from accounts.models import User
from labeling.models import Adjudication, Membership, Project, Ranking
from reward.models import BurnedPseudonym, Pseudonym, PseudonymKey, new_key


class Pseudonyms:
    """The pseudonyms of reviewers. Only the key and the rows in the database link them to people."""

    def __init__(
        self, key: str, names: Mapping[int, str] | None = None, burned: Collection[str] = ()
    ):
        self.key = key.encode()
        self.names = dict(names or {})
        self.taken = {*self.names.values(), *burned}

    def __call__(self, reviewer_id: int) -> str:
        if reviewer_id not in self.names:
            self.names[reviewer_id] = self._new(reviewer_id)
        return self.names[reviewer_id]

    def _new(self, reviewer_id: int) -> str:
        for attempt in count():
            text = f"{reviewer_id}:{attempt}" if attempt else str(reviewer_id)
            digest = hmac.digest(self.key, text.encode(), "sha256")
            if (name := f"r-{digest.hex()[:12]}") not in self.taken:
                self.taken.add(name)
                return name
        raise AssertionError("count() never ends")


def pseudonyms(project: Project) -> Pseudonyms:
    """Return the pseudonyms of a project. This takes three queries.

    They are the same in all its snapshots, and different from those of other projects.
    """
    key, _ = PseudonymKey.objects.get_or_create(project=project)
    stored = Pseudonym.objects.filter(project=project).values_list("reviewer_id", "name")
    burned = BurnedPseudonym.objects.filter(project=project).values_list("name", flat=True)
    return Pseudonyms(key.key, dict(stored), set(burned))


@transaction.atomic
def burn(*, project: Project, reviewer: User) -> None:
    """Burn the pseudonym of a reviewer. All others keep theirs.

    The row of the burned pseudonym does not contain the account. Call this with the project locked.
    """
    pseudonym = pseudonyms(project)
    burned = pseudonym(reviewer.pk)
    others = {
        *Ranking.objects.filter(task__project=project).values_list("reviewer_id", flat=True),
        *Adjudication.objects.filter(task__project=project).values_list("by_id", flat=True),
        *Membership.objects.filter(project=project).values_list("user_id", flat=True),
    } - {reviewer.pk}
    rows = [Pseudonym(project=project, reviewer_id=pk, name=pseudonym(pk)) for pk in sorted(others)]
    Pseudonym.objects.bulk_create(rows, ignore_conflicts=True)
    Pseudonym.objects.filter(project=project, reviewer=reviewer).delete()
    BurnedPseudonym.objects.create(project=project, name=burned)
    PseudonymKey.objects.filter(project=project).update(key=new_key())

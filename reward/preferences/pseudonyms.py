"""The names of reviewers in snapshots and exports."""

import hmac

from labeling.models import Project
from reward.models import PseudonymKey


class Pseudonyms:
    """The pseudonyms of reviewers. Only the key in the database links them to people."""

    def __init__(self, key: str):
        self.key = key.encode()
        self.names: dict[int, str] = {}

    def __call__(self, reviewer_id: int) -> str:
        if reviewer_id not in self.names:
            digest = hmac.digest(self.key, str(reviewer_id).encode(), "sha256")
            self.names[reviewer_id] = f"r-{digest.hex()[:12]}"
        return self.names[reviewer_id]


def pseudonyms(project: Project) -> Pseudonyms:
    """Return the pseudonyms of a project.

    They are the same in all its snapshots, and different from those of other projects.
    """
    key, _ = PseudonymKey.objects.get_or_create(project=project)
    return Pseudonyms(key.key)

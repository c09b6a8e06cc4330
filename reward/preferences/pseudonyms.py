"""The names of reviewers in snapshots and exports."""

import hmac

from labeling.models import Project
from reward.models import PseudonymKey


class Pseudonyms:
    """Pseudonyms of reviewers. Only the key in the database links them to people."""

    def __init__(self, key: str):
        self.key = key.encode()
        self.names: dict[int, str] = {}

    def __call__(self, reviewer_id: int) -> str:
        if reviewer_id not in self.names:
            digest = hmac.digest(self.key, str(reviewer_id).encode(), "sha256")
            self.names[reviewer_id] = f"r-{digest.hex()[:12]}"
        return self.names[reviewer_id]


def pseudonyms(project: Project) -> Pseudonyms:
    """Return the project's pseudonyms, the same in all its snapshots and different in each project."""
    key, _ = PseudonymKey.objects.get_or_create(project=project)
    return Pseudonyms(key.key)

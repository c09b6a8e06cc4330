"""Names of repositories on a model hub: `OWNER/NAME` or `OWNER/NAME@REVISION`."""

import re
from typing import NamedTuple

PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
"""An owner or a name of a repository, by the rules of `huggingface_hub`."""
REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]{0,198}[A-Za-z0-9_])?")
COMMIT = re.compile(r"[0-9a-f]{40}")
MAIN = "main"


class HubName(NamedTuple):
    repo: str
    revision: str

    def __str__(self) -> str:
        return self.repo if self.revision == MAIN else f"{self.repo}@{self.revision}"


def hub_name(reference: str) -> HubName:
    """Return the repository and the revision, by default `main`. Raises ValueError with a sentence."""
    repo, at, revision = reference.strip().partition("@")
    parts = repo.split("/")
    if len(parts) != 2 or not all(map(_valid, parts)) or len(repo) > 96 or repo.endswith(".git"):
        raise ValueError(
            f"{reference!r} is not the name of a repository. Write OWNER/NAME or OWNER/NAME@REVISION, "
            "with letters, digits and the characters - _ . only."
        )
    if at and not (REVISION.fullmatch(revision) and ".." not in revision and "//" not in revision):
        raise ValueError(
            f"{revision!r} is not a revision. Write the name of a branch or a tag, or a commit."
        )
    return HubName(repo, revision or MAIN)


def _valid(part: str) -> bool:
    return bool(PART.fullmatch(part)) and "--" not in part and ".." not in part

"""Files that a lead has sent and not yet imported: looked at first, imported next, then gone.

Kept beside what describes them, for a day, under a name that nobody can guess and that belongs to
one person and one project.
"""

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from django.conf import settings

from accounts.models import User
from labeling.models import Project

LARGEST = 50 << 20
KEPT_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Upload:
    key: str
    user: int
    project: int
    name: str
    """As the sender called it; for reading only."""
    format: str
    any_criteria: bool

    @property
    def path(self) -> Path:
        return _folder() / f"{self.key}.data"

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".json").unlink(missing_ok=True)


def keep(
    chunks: Iterable[bytes], *, user: User, project: Project, name: str, format: str,
    any_criteria: bool,
) -> Upload:  # fmt: skip
    """Write it to disk. Files that nobody came back for in a day are deleted meanwhile."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    _forget_old(folder)
    upload = Upload(uuid.uuid4().hex, user.pk, project.pk, name[:200], format, any_criteria)
    with upload.path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
    upload.path.with_suffix(".json").write_text(json.dumps(asdict(upload)))
    return upload


def find(key: uuid.UUID, *, user: User, project: Project) -> Upload | None:
    """The person's own upload to this project, while it is kept."""
    try:
        upload = Upload(**json.loads((_folder() / f"{key.hex}.json").read_text()))
    except (OSError, json.JSONDecodeError, TypeError):
        return None
    mine = (upload.user, upload.project) == (user.pk, project.pk)
    return upload if mine and upload.path.is_file() else None


def _folder() -> Path:
    return Path(settings.UPLOADS_DIR)


def _forget_old(folder: Path) -> None:
    for path in folder.iterdir():
        if time.time() - path.stat().st_mtime > KEPT_SECONDS:
            path.unlink(missing_ok=True)

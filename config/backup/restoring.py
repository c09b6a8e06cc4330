"""Restore a backup into an installation that is empty.

Everything is first extracted next to its final place and compared with the recorded digests. Only then
are the rows restored, in one transaction, and the files moved. So a damaged backup changes nothing.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from django.conf import settings
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from buckets.bucket import StorageError
from buckets.files import bucket, is_remote, publish
from config.backup import tools
from config.backup.archive import ArchiveReader, BackupError, HashingReader
from config.backup.writing import FORMAT, ROOTS, last_line, root
from runs.models import Run

STAGING = ".restoring-"
COPY_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 10 << 20
PART = re.compile(r"database/\d{6}")


@dataclass(frozen=True)
class Restored:
    """The content of a backup: its manifest, and its numbers of files and bytes."""

    manifest: Mapping[str, Any]
    files: int
    bytes: int


def verify(stream: IO[bytes]) -> Restored:
    """Read a backup to its end, and compare all digests. Nothing is written."""
    return _read(stream, lambda name: Path(os.devnull).open("wb"))


def restore(stream: IO[bytes]) -> Restored:
    """Restore a backup. Raises BackupError, with nothing changed, if that is not possible.

    The database must have no tables, and the folders of the storage roots must be empty.
    """
    require_empty()
    with _staging_folders() as staging:
        dump = staging["database"] / "dump"

        def target_of(name: str) -> IO[bytes]:
            destination = _destination(name)
            if destination is None:
                return dump.open("ab")
            folder, path = destination
            target = staging[folder] / path
            target.parent.mkdir(parents=True, exist_ok=True)
            return target.open("xb")

        restored = _read(stream, target_of)
        _restore_rows(dump)
        for name in ROOTS:
            for entry in staging[name].iterdir():
                entry.rename(root(name) / entry.name)
    if is_remote():
        _publish()
    return restored


def _publish() -> None:
    """Copy the restored files to the object store. Raises BackupError.

    If that fails, the rows and the local files are restored, and `manage.py move_storage` continues.
    """
    tokens = {f"{pk}": token for pk, token in Run.objects.values_list("pk", "fencing_token")}
    try:
        for name in ROOTS:
            for path in sorted(root(name).glob("[!.]*")):
                publish(path, token=tokens.get(path.name, 0) if name == "runs" else 0)
    except StorageError as problem:
        raise BackupError(
            f"The rows and the files are restored to this machine, but not to the storage. {problem} Then "
            f"copy them with: manage.py move_storage {settings.STORAGE} --from folders"
        ) from None


def require_empty() -> None:
    """Raise BackupError unless this installation has no data."""
    if tables := connection.introspection.table_names():
        raise BackupError(
            f"The database is not empty: it has {len(tables)} tables. Restore into a new database, and "
            "name it in DATABASE_URL."
        )
    if is_remote() and (names := [n for name in ROOTS for n in bucket().names(name)]):
        raise BackupError(
            f"{settings.STORAGE} is not empty: it has {names[0]}. Restore into a new prefix, and name it "
            "in TIEBREAK_STORAGE."
        )
    for name, setting in ROOTS.items():
        if root(name).is_dir() and any(root(name).glob("[!.]*")):
            raise BackupError(
                f"{root(name)} is not empty. Restore into new folders: set TIEBREAK_VAR or "
                f"TIEBREAK_{setting}."
            )


@contextmanager
def _staging_folders() -> Iterator[dict[str, Path]]:
    """Make a folder inside each storage root, so that files need only be renamed, and one for the rows."""
    with ExitStack() as stack:
        folders = {}
        for name in ROOTS:
            parent = root(name)
            parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=parent, prefix=STAGING))
            folders[name] = Path(folder)
        database = stack.enter_context(
            tempfile.TemporaryDirectory(dir=root("runs"), prefix=STAGING)
        )
        yield {**folders, "database": Path(database)}


def _read(stream: IO[bytes], target_of: Callable[[str], IO[bytes]]) -> Restored:
    """Copy each member to the file that `target_of` opens for it, and verify the digests."""
    reader = ArchiveReader(stream)
    manifest: dict[str, Any] = {}
    files = size = 0
    for name, content in reader.members():
        if name == "manifest.json":
            manifest = _read_manifest(content)
            _require(manifest)  # before anything is extracted
            continue
        files += _destination(name) is not None
        with target_of(name) as target:
            while data := content.read(COPY_BYTES):
                size += target.write(data)
    reader.verify()
    _require(manifest)
    return Restored(manifest, files, size)


def _destination(name: str) -> tuple[str, PurePosixPath] | None:
    """Return the storage root and the path of a file, or None for a part of the dump.

    Raises BackupError for a name that no backup contains, such as one that leads out of the folders.
    """
    if PART.fullmatch(name):
        return None
    path = PurePosixPath(name)
    safe = not path.is_absolute() and ".." not in path.parts and "\0" not in name
    if safe and len(path.parts) > 2 and path.parts[0] == "files" and path.parts[1] in ROOTS:
        return path.parts[1], PurePosixPath(*path.parts[2:])
    raise BackupError(f"{name!r} does not belong in a backup.")


def _read_manifest(content: HashingReader) -> dict[str, Any]:
    try:
        manifest = json.loads(content.read(MAX_MANIFEST_BYTES))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise BackupError("manifest.json is not a JSON object, so this is not a backup.")
    return manifest


def _require(manifest: Mapping[str, Any]) -> None:
    """Raise BackupError if this version of Tiebreak cannot read the backup."""
    if not manifest:
        raise BackupError("This is not a backup: it has no manifest.json.")
    if manifest.get("format") != FORMAT:
        raise BackupError(f"The backup has format {manifest.get('format')!r}, not {FORMAT}.")
    own_migrations = {f"{app}.{name}" for app, name in MigrationLoader(None).disk_migrations}
    if newer := sorted(set(manifest.get("migrations", [])) - own_migrations):
        raise BackupError(
            f"The backup was written by a newer version of Tiebreak, with the migration {newer[-1]}. "
            "Install that version first."
        )


def _restore_rows(dump: Path) -> None:
    connection.close()
    command = [tools.program("pg_restore"), "--single-transaction", "--exit-on-error", "--no-owner",
               "--no-privileges", f"--dbname={connection.settings_dict['NAME']}", str(dump)]  # fmt: skip
    process = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, env=tools.environment()
    )
    if process.returncode:
        raise BackupError(
            f"pg_restore failed, and nothing was restored: {last_line(process.stderr)}"
        )

"""Write a backup while the installation is in use.

The rows come from one snapshot of the database, which `pg_dump` and the list of files share. Published
files never change, so they may be copied after the rows. Files of runs in progress only grow, or appear
complete. Checkpoints are left out: after a restore, runs in progress start again.
"""

import json
import os
import shutil
import subprocess
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import IO, Any

from django.conf import settings
from django.db import connection, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from buckets.bucket import StorageError
from buckets.files import bucket, is_remote
from buckets.manifests import Entry
from config.backup import tools
from config.backup.archive import ArchiveWriter, BackupError
from labeling.models import FileImport
from reward.models import Snapshot
from runs import storage
from runs.disk.usage import REMOVED
from runs.models import Artifact, Run, State
from runs.supervision.workspace import LOCK

FORMAT = 1
ROOTS = {"runs": "RUNS_DIR", "snapshots": "SNAPSHOTS_DIR", "uploads": "UPLOADS_DIR"}
LEFT_OUT = frozenset({"checkpoints", LOCK})
"""Names of files and folders in a run directory that no backup contains."""


def root(name: str) -> Path:
    return Path(getattr(settings, ROOTS[name])).absolute()


@dataclass(frozen=True)
class StoredFile:
    """A file of the backup: its storage root, its path below that root, and its entry in the object store.

    Without an object store, or if the file is missing there, the entry is None.
    """

    root: str
    path: str
    entry: Entry | None = None

    @property
    def name(self) -> str:
        """The name of its member in the archive."""
        return f"files/{self.root}/{self.path}"

    @property
    def absolute(self) -> Path:
        return root(self.root) / self.path

    def write_to(self, archive: ArchiveWriter) -> None:
        """Write the content to the archive. Raises FileNotFoundError and StorageError."""
        if not is_remote():
            archive.add_file(self.name, self.absolute)
        elif self.entry is None:
            raise FileNotFoundError
        else:
            bundle = "/".join(f"{self.root}/{self.path}".split("/")[:2])
            archive.add_chunks(self.name, bucket().parts(bundle, self.entry), self.entry.bytes)

    def size(self) -> int:
        """Return the number of bytes. Raises FileNotFoundError."""
        if not is_remote():
            return self.absolute.stat().st_size
        if self.entry is None:
            raise FileNotFoundError
        return self.entry.bytes


@dataclass
class Account:
    """The content of a backup: numbers of files and bytes, and sentences about problems."""

    files: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)


def write(stream: IO[bytes]) -> Account:
    """Write a backup to the stream. Raises BackupError if that is not possible.

    A file that is missing or was altered is reported as a problem. The rest of the backup is complete.
    """
    with _storage_errors(), _database_snapshot() as snapshot:
        account = Account()
        archive = ArchiveWriter(stream)
        archive.add("manifest.json", json.dumps(_manifest(), indent=2).encode())
        _dump(archive, snapshot)
        for file in files():
            try:
                file.write_to(archive)
                account.files += 1
            except FileNotFoundError:
                account.problems.append(f"{file.absolute} is missing.")
        account.problems += _altered(archive.digests)
        archive.close()
        account.bytes = archive.size
    return account


def measure() -> Account:
    """Return the number and size of the files that a backup would contain now."""
    account = Account()
    with _storage_errors(), _database_snapshot():
        for file in files():
            try:
                account.bytes += file.size()
                account.files += 1
            except FileNotFoundError:
                account.problems.append(f"{file.absolute} is missing.")
    return account


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except StorageError as problem:
        raise BackupError(str(problem)) from problem


@contextmanager
def _database_snapshot() -> Iterator[str]:
    """Open a transaction that sees one state of the database. Yield the id with which others see it too."""
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        cursor.execute("SELECT pg_export_snapshot()")
        yield str(cursor.fetchone()[0])


def _manifest() -> dict[str, Any]:
    try:
        product = version("tiebreak")
    except PackageNotFoundError:
        product = "unknown"
    applied = MigrationRecorder(connection).applied_migrations()
    return {
        "format": FORMAT,
        "tiebreak": product,
        "postgresql": tools.server_version(),
        "created_at": timezone.now().isoformat(),
        "migrations": sorted(f"{app}.{name}" for app, name in applied),
    }


def _dump(archive: ArchiveWriter, snapshot: str) -> None:
    command = [tools.program("pg_dump"), "--format=custom", "--no-owner", "--no-privileges",
               f"--snapshot={snapshot}"]  # fmt: skip
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            env=tools.environment(),
        )  # fmt: skip
        assert process.stdout is not None
        try:
            archive.add_parts("database", process.stdout)
        finally:
            process.stdout.close()
            status = process.wait()
        if status:
            errors.seek(0)
            raise BackupError(f"pg_dump failed: {last_line(errors.read())}")


def last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines() or ["it printed nothing"]
    return lines[-1]


# --- files ---------------------------------------------------------------------------------------


def files() -> Iterator[StoredFile]:
    """Yield the files that the rows name: snapshots, uploads that wait, and run directories."""
    if is_remote():
        yield from _files_in_bucket()
        return
    for name in Snapshot.objects.order_by("path").values_list("path", flat=True).distinct():
        yield _relative("snapshots", root("snapshots") / name)
    for file_import in FileImport.objects.order_by("pk").iterator():
        if file_import.path.is_file():
            yield _relative("uploads", file_import.path)
    for pk in Run.objects.order_by("pk").values_list("pk", flat=True).iterator():
        for path in _files_of_run(root("runs") / str(pk)):
            yield _relative("runs", path)


def _files_in_bucket() -> Iterator[StoredFile]:
    for name in Snapshot.objects.order_by("path").values_list("path", flat=True).distinct():
        yield from _files_of_bundle("snapshots", name) or [StoredFile("snapshots", name)]
    for file_import in FileImport.objects.order_by("pk").iterator():
        yield from _files_of_bundle("uploads", file_import.path.name)
    for pk in Run.objects.order_by("pk").values_list("pk", flat=True).iterator():
        yield from _files_of_bundle("runs", str(pk))


def _files_of_bundle(name: str, bundle: str) -> list[StoredFile]:
    manifest = bucket().manifest(f"{name}/{bundle}")
    return [
        StoredFile(name, f"{bundle}/{path}".rstrip("/"), entry)
        for path, entry in (manifest.below("") if manifest else ())
        if all(map(_belongs, path.split("/")))
    ]


def _relative(name: str, path: Path) -> StoredFile:
    if not path.is_relative_to(root(name)):
        raise BackupError(f"{path} is not below {root(name)}. Move it there first.")
    return StoredFile(name, path.relative_to(root(name)).as_posix())


def _files_of_run(folder: Path) -> list[Path]:
    """Return the files of a run directory, without checkpoints.

    A folder is listed before its subfolders. So if the list contains the mark of a finished recipe, which
    is written last, it also contains the output.
    """
    paths: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in sorted(folders) if _belongs(name)]
        paths += [Path(parent) / name for name in sorted(names) if _belongs(name)]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _belongs(name: str) -> bool:
    return name not in LEFT_OUT and not name.startswith(REMOVED)


def _altered(digests: dict[str, str]) -> Iterable[str]:
    """Yield a sentence for each output of a run whose copied content is not what the run published."""
    names = sorted(digests)
    published = Artifact.objects.filter(run__state=State.SUCCEEDED, run__files_removed_at=None)
    for artifact in published.order_by("pk").iterator():
        path = Path(storage.resolve(artifact.path))
        name = _relative("runs", path).name
        digest = digests.get(name)
        if digest is None:  # a folder
            inside = names[bisect_left(names, f"{name}/") : bisect_left(names, f"{name}0")]
            parent = PurePosixPath(name).parent
            digest = storage.digest_of_listing(
                (PurePosixPath(member).relative_to(parent), digests[member]) for member in inside
            )
        if digest != artifact.sha256:
            yield f"{path} is missing, or was altered after the run published it."


# --- into a file ---------------------------------------------------------------------------------


def write_file(path: Path) -> Account:
    """Write a backup to a new file, which appears when it is complete. Only its owner can read it."""
    if path.exists():
        raise BackupError(f"{path} exists already. Choose another name.")
    partial = path.with_name(f"{path.name}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            account = write(file)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)  # unlike rename, this fails if the file exists by now
    except FileExistsError:
        raise BackupError(f"{path} exists already. Choose another name.") from None
    except OSError as error:
        free = shutil.disk_usage(path.parent).free >> 20 if path.parent.is_dir() else 0
        raise BackupError(
            f"{path} cannot be written: {error.strerror}. The disk has {free} MB left."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return account

"""Local files and their copies in the storage: the functions that the rest of Tiebreak calls.

Files are named by their local path. The storage roots are the folders of runs, snapshots and uploads. A
run directory is one bundle, as is each file of the other roots. On a machine, these folders are a cache:
`publish` copies a path to the storage, `fetch` copies it back, and `cache` deletes what was not used
lately. Without an object store, every function returns immediately.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings

from buckets import addresses
from buckets.bucket import Bucket, StorageError, StorageUnavailable
from buckets.manifests import Entry, Manifest

ROOTS = {"runs": "RUNS_DIR", "snapshots": "SNAPSHOTS_DIR", "uploads": "UPLOADS_DIR"}
STATE = ".bucket"
"""The folder in each root with the state of its cache and with unfinished downloads."""

ATTEMPT_LOCK = ".lock"
"""The file in a run directory that an attempt locks (runs.supervision.workspace)."""

PRIVATE = re.compile(
    r"\.lock|\.base|\.bucket|\.tmp-trainer|\.output-(draft|replaced)|\.(removed|damaged|ended)-.*"
    r"|\..*\.(draft|download)"
)
"""Names of files and folders that are never published, because they are of one attempt or machine."""

FRESH_SECONDS = 10
"""A path that was compared with the storage is not compared again for this long."""

logger = logging.getLogger("tiebreak.storage")
_fetched_at: dict[str, float] = {}
_unavailable_until: dict[str, float] = {}
_buckets: dict[tuple[int, str], Bucket] = {}


def is_remote() -> bool:
    """Return whether files are published to an object store."""
    return isinstance(settings.STORAGE, addresses.Address)


def bucket() -> Bucket:
    """Return the bucket of this process. Raises WrongAddress if a package is missing."""
    address = settings.STORAGE
    if not isinstance(address, addresses.Address):
        raise ValueError("TIEBREAK_STORAGE names no object store.")
    key = os.getpid(), str(address)
    if key not in _buckets:
        _buckets[key] = Bucket(address)
    return _buckets[key]


@dataclass(frozen=True)
class Place:
    """A path as the storage knows it: the name of its bundle, and the path inside the bundle."""

    root: str
    bundle: str
    inside: str = ""

    @property
    def name(self) -> str:
        return f"{self.root}/{self.bundle}"

    @property
    def folder(self) -> Path:
        return root(self.root)

    @property
    def path(self) -> Path:
        """The local path of the bundle."""
        return self.folder / self.bundle

    @property
    def state(self) -> Path:
        return self.folder / STATE / f"{self.bundle}.json"

    @property
    def staging(self) -> Path:
        return self.folder / STATE / f"{self.bundle}.fetching"


def root(name: str) -> Path:
    return Path(getattr(settings, ROOTS[name])).absolute()


def place_of(path: str | Path) -> Place | None:
    """Return the place of a local path, or None if it is outside the storage roots."""
    absolute = Path(path).absolute()
    for name in ROOTS:
        if absolute.is_relative_to(root(name)) and absolute != root(name):
            parts = absolute.relative_to(root(name)).parts
            return Place(name, parts[0], "/".join(parts[1:]))
    return None


# --- state of the cache ---------------------------------------------------------------------------


@dataclass
class State:
    """What a machine knows about its copy of a bundle.

    manifest  the id of the state that the copy had when it was last published or fetched
    covers    the paths in the bundle that the copy has completely; "" is the whole bundle
    at        when the copy was last published or fetched
    files     the entries of files that were read, with the size, time and inode they had then
    """

    manifest: str = ""
    covers: list[str] = field(default_factory=list)
    at: float = 0
    files: dict[str, list[Any]] = field(default_factory=dict)

    def covers_path(self, inside: str) -> bool:
        return any(
            not path or inside == path or inside.startswith(f"{path}/") for path in self.covers
        )


def _read_state(place: Place) -> State:
    try:
        return State(**json.loads(place.state.read_bytes()))
    except (OSError, ValueError, TypeError):
        return State()


def _write_state(place: Place, state: State) -> None:
    place.state.parent.mkdir(parents=True, exist_ok=True)
    draft = place.state.with_name(f".{place.bundle}.{os.getpid()}.draft")
    draft.write_text(json.dumps(asdict(state)))
    draft.rename(place.state)


def forget(path: Path) -> None:
    """Forget the state of the local copy, so that the next fetch compares it with the storage."""
    if place := place_of(path):
        place.state.unlink(missing_ok=True)


@contextmanager
def _locked(place: Place) -> Iterator[None]:
    """Let one process at a time fetch, publish or evict a bundle on this machine."""
    place.state.parent.mkdir(parents=True, exist_ok=True)
    with place.state.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- publishing -----------------------------------------------------------------------------------


def publish(path: Path, *, token: int = 0, is_valid: Callable[[], bool] = lambda: True) -> None:
    """Copy a file or a run directory to the storage. Unchanged files are not copied again.

    The manifest is written last, so readers see the earlier state or the new one. Files that grow are
    copied as they are at this moment. Complete checkpoints and results are linked first, so that they
    may be deleted in the meantime. Raises StorageError; an interrupted upload continues with the next call.
    """
    place = _bundle(path)
    if place is None:
        return
    with _locked(place), _links_of(place) as files:
        state = _read_state(place)
        stats, at = {name: _stat(file) for name, file in files.items()}, time.time()

        def known(name: str, file: Path) -> Entry | None:
            if (saved := state.files.get(name)) is None or saved[0] != stats[name]:
                return None
            return Entry(saved[1]["bytes"], saved[1]["sha256"], tuple(saved[1]["parts"]))

        manifest = bucket().publish(place.name, files, token=token, known=known, is_valid=is_valid)
        read = {
            name: [stats[name], asdict(entry)]
            for name, entry in manifest.files.items()
            if _stat(files[name]) == stats[name]
        }
        _write_state(place, State(manifest.id, [""], at, read))


def _bundle(path: Path) -> Place | None:
    """Return the place of a bundle, or None if there is no object store."""
    if not is_remote():
        return None
    place = place_of(path)
    if place is None or place.inside:
        raise ValueError(f"{path} is not a file or folder directly below a storage root.")
    return place


def _stat(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


@contextmanager
def _links_of(place: Place) -> Iterator[dict[str, Path]]:
    """Yield the files to publish by their path in the bundle, linked where that is possible."""
    links = place.folder / STATE / f"{place.bundle}.publishing"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(parents=True)
    try:
        yield {
            name: _link(file, links / str(n)) for n, (name, file) in enumerate(files_in(place.path))
        }
    finally:
        shutil.rmtree(links, ignore_errors=True)


def _link(file: Path, link: Path) -> Path:
    try:
        os.link(file, link)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        return file
    return link


def files_in(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that are published of a local file or folder, by their path in the bundle."""
    if path.is_file():
        yield "", path
        return
    for parent, folders, names in os.walk(path):
        folders[:] = [name for name in sorted(folders) if not PRIVATE.fullmatch(name)]
        for name in sorted(names):
            file = Path(parent, name)
            if not PRIVATE.fullmatch(name) and file.is_file() and not file.is_symlink():
                yield file.relative_to(path).as_posix(), file


# --- fetching -------------------------------------------------------------------------------------


def fetch(path: str | Path, *, strict: bool = False) -> None:
    """Make the local copy of a path equal to the storage. Does nothing if it is up to date.

    Costs two requests if there is nothing to copy, and none within FRESH_SECONDS. If the storage does
    not answer, a complete local copy is used. With `strict`, neither is the case. Paths outside the
    storage roots, and paths that are not in the storage, are left alone. Raises StorageError. An
    interrupted download continues with the next call.
    """
    place = place_of(path) if is_remote() else None
    if place is None or (not strict and (_is_fresh(Path(path)) or _is_live(place))):
        return
    with _locked(place):
        try:
            # Within the lock, as the process that holds it may be publishing a new state.
            manifest = bucket().manifest(place.name)
        except StorageUnavailable:
            covered = _read_state(place).covers_path(place.inside) and Path(path).exists()
            if covered and not strict:
                return
            raise
        _fetched_at[str(path)] = time.monotonic()
        if manifest is not None:
            _update(place, manifest)


def _update(place: Place, manifest: Manifest) -> None:
    state = _read_state(place)
    is_current = state.manifest == manifest.id
    if is_current and state.covers_path(place.inside) and (place.path / place.inside).exists():
        with suppress(OSError):
            os.utime(place.state)  # for the order in which copies are evicted
        return
    make_room(sum(entry.bytes for _, entry in manifest.below(place.inside)), keep=place)
    _copy(place, manifest)
    covers = [*state.covers, place.inside] if is_current else [place.inside]
    _write_state(place, State(manifest.id, covers, time.time(), {}))


def _is_live(place: Place) -> bool:
    """Return whether an attempt on this machine writes to the run directory, which is then ahead."""
    try:
        descriptor = os.open(place.path / ATTEMPT_LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_fresh(path: Path) -> bool:
    fetched_at = _fetched_at.get(str(path), -FRESH_SECONDS)
    return time.monotonic() < fetched_at + FRESH_SECONDS and path.exists()


def fetch_quietly(path: str | Path) -> None:
    """Fetch a path for a page that shows what is there. Problems of the storage are only logged.

    If the storage has just not answered, it is not asked again for FRESH_SECONDS, so that a page with
    several files waits only once.
    """
    if not is_remote() or time.monotonic() < _unavailable_until.get(str(settings.STORAGE), 0):
        return
    try:
        fetch(path)
    except (StorageError, OSError) as problem:
        logger.warning("%s", problem)
        if isinstance(problem, StorageUnavailable):
            _unavailable_until[str(settings.STORAGE)] = time.monotonic() + FRESH_SECONDS


def _copy(place: Place, manifest: Manifest) -> None:
    """Download the missing files of a place, then move them, then delete files the bundle does not have.

    Until everything is downloaded, the local copy is unchanged. Its state is removed before it changes,
    so that after a crash it is compared again.
    """
    wanted = dict(manifest.below(place.inside))
    missing = {name: entry for name, entry in wanted.items() if not _has(place.path / name, entry)}
    for entry in missing.values():
        if not _has(staged := place.staging / entry.sha256, entry):
            bucket().download(place.name, entry, staged)
    place.state.unlink(missing_ok=True)
    for name, entry in missing.items():
        target = place.path / name
        _make_folder(target.parent, place)
        staged = place.staging / entry.sha256
        if sum(other.sha256 == entry.sha256 for other in missing.values()) > 1:
            draft = target.with_name(f".{target.name[:100]}.download")
            shutil.copyfile(staged, draft)
            draft.rename(target)
        else:
            staged.rename(target)
    for name, file in list(files_in(place.path)):
        if name not in manifest.files and (not place.inside or _is_below(name, place.inside)):
            file.unlink(missing_ok=True)
    shutil.rmtree(place.staging, ignore_errors=True)
    _fsync(place.path)


def _is_below(name: str, inside: str) -> bool:
    return name == inside or name.startswith(f"{inside}/")


def _make_folder(folder: Path, place: Place) -> None:
    """Make a folder. A file that is in its way belongs to an earlier state of the bundle."""
    for parent in [*reversed(folder.parents), folder]:
        if parent.is_relative_to(place.path) and parent.is_file():
            parent.unlink()
    folder.mkdir(parents=True, exist_ok=True)


def _has(file: Path, entry: Entry) -> bool:
    """Return whether a file has the content of an entry. It is read if its size is equal."""
    try:
        if file.stat().st_size != entry.bytes:
            return False
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == entry.sha256
    except OSError:
        return False


def _fsync(path: Path) -> None:
    if path.is_dir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- the rest of the life of a path ---------------------------------------------------------------


def is_published(path: str | Path) -> bool:
    """Return whether a path exists here or in the storage. Costs two requests if it does not exist here."""
    if Path(path).exists() or not is_remote() or (place := place_of(path)) is None:
        return Path(path).exists()
    manifest = bucket().manifest(place.name)
    return manifest is not None and any(manifest.below(place.inside))


def entries_below(path: Path) -> dict[str, Entry]:
    """Return the published files at or below a path, by their path from there. Raises StorageError."""
    if not is_remote() or (place := place_of(path)) is None:
        return {}
    manifest = bucket().manifest(place.name)
    start = len(place.inside) + 1 if place.inside else 0
    return {name[start:]: entry for name, entry in manifest.below(place.inside)} if manifest else {}


def remove(path: Path) -> None:
    """Delete a bundle from the storage, and forget the state of its local copy. Raises StorageError.

    The caller deletes the local copy.
    """
    if place := _bundle(path):
        bucket().remove(place.name)
        place.state.unlink(missing_ok=True)
        shutil.rmtree(place.staging, ignore_errors=True)


def discard(path: Path) -> None:
    """Delete a bundle from the storage after its rows are gone. If that fails, it is logged.

    `manage.py clean_storage` deletes what remains.
    """
    try:
        remove(path)
    except StorageError as problem:
        logger.error(
            "%s stays in the storage until manage.py clean_storage runs: %s", path, problem
        )


def drop(path: Path, is_dropped: Callable[[str], bool]) -> None:
    """Delete some files of a bundle, by their path in it, from the storage. Raises StorageError.

    The caller deletes the local copies of the files.
    """
    if (place := _bundle(path)) is None:
        return
    with _locked(place):
        changed = bucket().drop(place.name, is_dropped)
        state = _read_state(place)
        if changed and state.manifest == changed[0].id:
            state.manifest = changed[1].id
            _write_state(place, state)


def make_room(needed: int, *, keep: Place | None = None) -> None:
    from buckets import cache

    cache.make_room(needed, keep=keep)

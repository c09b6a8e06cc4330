"""The size of the local copies of bundles. Copies that were not used lately are deleted first.

Only copies that are equal to the storage are deleted, and never those that a running run needs or that
were used in the last hour.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from buckets import files
from buckets.files import Place

KEPT_SECONDS = 3600
"""A copy is kept at least this long after its last use, as programs may still be opening its files."""

users: list[Callable[[], set[str]]] = []
"""Functions that return the names of bundles that must be kept. Apps append theirs when they start."""


@dataclass(frozen=True)
class Copy:
    """A local copy of a bundle: its size, and the time of its last use."""

    place: Place
    bytes: int
    used_at: float


def copies() -> list[Copy]:
    """Return the local copies, the least recently used first."""
    found = [copy for name in files.ROOTS for copy in _copies_in(name)]
    return sorted(found, key=lambda copy: copy.used_at)


def _copies_in(root: str) -> Iterator[Copy]:
    for state in (files.root(root) / files.STATE).glob("[!.]*.json"):
        place = Place(root, state.name.removesuffix(".json"))
        try:
            used_at = state.stat().st_mtime
        except OSError:
            continue
        yield Copy(place, size_of(place.path), used_at)


def size_of(path: Path) -> int:
    """Return the bytes of a file or of all files below a folder. Hard links count for each name."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += Path(folder, name).lstat().st_size
            except OSError:
                continue
    return total


def make_room(needed: int, *, keep: Place | None = None) -> int:
    """Delete copies until `needed` more bytes fit into TIEBREAK_CACHE_GB. Return the bytes deleted.

    If the copies in use leave too little room, the limit is exceeded.
    """
    if not files.is_remote() or not settings.CACHE_GB:
        return 0
    present = copies()
    excess = sum(copy.bytes for copy in present) + needed - settings.CACHE_GB * 10**9
    if excess <= 0:
        return 0
    kept = {name for names in users for name in names()} | ({keep.name} if keep else set())
    deleted = 0
    for copy in present:
        if deleted >= excess:
            break
        if copy.place.name not in kept and copy.used_at < time.time() - KEPT_SECONDS:
            deleted += copy.bytes if _evict(copy.place) else 0
    return deleted


def drop_outdated() -> int:
    """Delete copies of bundles that were removed from the storage or changed there. Return their number.

    Content that was erased then disappears from this machine too.
    """
    if not files.is_remote():
        return 0
    kept = {name for names in users for name in names()}
    return sum(_drop_outdated(copy.place) for copy in copies() if copy.place.name not in kept)


def _drop_outdated(place: Place) -> bool:
    with files._locked(place):
        state = files._read_state(place)
        manifest = files.bucket().manifest(place.name)
        if not state.manifest or (manifest is not None and manifest.id == state.manifest):
            return False
        _delete(place)
    return True


def _evict(place: Place) -> bool:
    """Delete a copy that is equal to the storage. Return whether it was deleted."""
    with files._locked(place):
        state = files._read_state(place)
        manifest = files.bucket().manifest(place.name)
        if manifest is None or manifest.id != state.manifest or _has_more(place, state):
            return False
        _delete(place)
    return True


def _delete(place: Place) -> None:
    place.state.unlink(missing_ok=True)
    if place.path.is_dir():
        shutil.rmtree(place.path, ignore_errors=True)
    else:
        place.path.unlink(missing_ok=True)


def _has_more(place: Place, state: files.State) -> bool:
    """Return whether the copy has files that were written after it was last published or fetched."""
    return any(file.stat().st_mtime > state.at for _, file in files.files_in(place.path))

"""Copy all stored files from one storage to another, when an installation moves.

The rows need no change, because they name files relative to a storage root. A copy that was interrupted
continues: files that are already in the target are compared and not copied again.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from buckets import addresses, files
from buckets.bucket import Bucket, Damaged
from buckets.manifests import Entry, Manifest


class CannotMove(Exception):  # noqa: N818
    """A move that is not possible. The text says why and what to do."""


@dataclass(frozen=True)
class Moved:
    """A bundle that was copied and verified: its name, its size, and its number of files."""

    name: str
    bytes: int
    files: int


class Folders:
    """A storage that consists of local folders: those of the settings, or subfolders of one folder."""

    def __init__(self, roots: dict[str, Path]):
        self.roots = roots

    def __str__(self) -> str:
        return ", ".join(str(root) for root in self.roots.values())

    def names(self, root: str) -> list[str]:
        folder = self.roots[root]
        children = folder.iterdir() if folder.is_dir() else []
        return sorted(f"{root}/{child.name}" for child in children if child.name[0] != ".")

    def path(self, name: str) -> Path:
        root, _, rest = name.partition("/")
        return self.roots[root] / rest

    def files(self, name: str) -> dict[str, Path]:
        return dict(files.files_in(self.path(name)))

    def size(self, name: str) -> tuple[int, int]:
        paths = self.files(name).values()
        return sum(path.stat().st_size for path in paths), len(paths)


def storage_at(text: str) -> Bucket | Folders:
    """Return the storage at an address, or that of the settings for an empty text. Raises CannotMove."""
    try:
        address = addresses.read(text)
        if isinstance(address, addresses.Address):
            return Bucket(address)
    except addresses.WrongAddress as problem:
        raise CannotMove(f"{text.partition('@')[2] or text}: {problem}") from None
    if isinstance(address, Path):
        return Folders({name: address / name for name in files.ROOTS})
    return Folders({name: files.root(name) for name in files.ROOTS})


def move(source: Bucket | Folders, target: Bucket | Folders, *, dry_run: bool) -> Iterator[Moved]:
    """Copy and verify each bundle. The source is not changed. Raises CannotMove and StorageError.

    With `dry_run`, nothing is written.
    """
    if isinstance(source, Folders) and isinstance(target, Folders):
        raise CannotMove(
            "Both are local folders. Copy them with rsync or mv, and set TIEBREAK_STORAGE or TIEBREAK_VAR."
        )
    for root in files.ROOTS:
        for name in source.names(root):
            if isinstance(source, Folders):
                size, count = source.size(name)
            else:
                manifest = source.require(name)
                size, count = manifest.bytes, len(manifest.files)
            if not dry_run:
                _copy(source, target, name)
            yield Moved(name, size, count)


def _copy(source: Bucket | Folders, target: Bucket | Folders, name: str) -> None:
    if isinstance(target, Folders):
        assert isinstance(source, Bucket)
        _download(source, source.require(name), name, target.path(name))
        return
    if isinstance(source, Folders):
        target.publish(name, source.files(name))
    else:
        target.copy(name, source)
    if problem := target.problem_of(name):
        raise Damaged(problem)


def _download(source: Bucket, manifest: Manifest, name: str, path: Path) -> None:
    """Write the files of a bundle to a folder. Each file is verified, and appears when it is complete."""
    for inside, entry in manifest.below(""):
        if not _has(path / inside, entry):
            source.download(name, entry, path / inside)


def _has(path: Path, entry: Entry) -> bool:
    if not path.is_file() or path.stat().st_size != entry.bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256

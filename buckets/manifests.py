"""Manifests: the lists of the files in bundles."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

FORMAT = 1
MAX_FILES = 1_000_000
SHA256 = re.compile(r"[0-9a-f]{64}")


class BadManifest(ValueError):  # noqa: N818
    """Content that is not a manifest, or one with paths that lead out of the bundle."""


@dataclass(frozen=True)
class Entry:
    """A file of a bundle: its size, its SHA-256, and the SHA-256 of each part in order."""

    bytes: int
    sha256: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """The files of a bundle by path. The path of a bundle that is a single file is empty.

    `token` is the fencing token of the writer. Of several manifests, the one with the highest token counts.
    """

    token: int
    files: Mapping[str, Entry]

    def to_bytes(self) -> bytes:
        files = {path: asdict(entry) for path, entry in sorted(self.files.items())}
        return json.dumps({"format": FORMAT, "token": self.token, "files": files}).encode()

    @property
    def id(self) -> str:
        """Return the hash that identifies this state of the bundle."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())

    @property
    def objects(self) -> set[str]:
        return {part for entry in self.files.values() for part in entry.parts}

    def below(self, inside: str) -> Iterator[tuple[str, Entry]]:
        """Yield the files at or below a path of the bundle, or all files for an empty path."""
        for path, entry in sorted(self.files.items()):
            if not inside or path == inside or path.startswith(f"{inside}/"):
                yield path, entry


def parse(data: bytes) -> Manifest:
    """Return the manifest in these bytes. Raises BadManifest."""
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise BadManifest(f"it has format {value['format']!r}, not {FORMAT}")
        files = {_path(path): _entry(entry) for path, entry in value["files"].items()}
        token = value["token"]
        if not isinstance(token, int) or len(files) > MAX_FILES or ("" in files and len(files) > 1):
            raise BadManifest("it is not valid")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise error if isinstance(error, BadManifest) else BadManifest("it is not valid") from None
    return Manifest(token, files)


def _path(path: str) -> str:
    pure = PurePosixPath(path)
    if path and (pure.is_absolute() or ".." in pure.parts or "\0" in path or str(pure) != path):
        raise BadManifest(f"it names the path {path[:100]!r}")
    return path


def _entry(value: Mapping[str, Any]) -> Entry:
    entry = Entry(value["bytes"], value["sha256"], tuple(value["parts"]))
    hashes = (entry.sha256, *entry.parts)
    valid = isinstance(entry.bytes, int) and entry.bytes >= 0
    if not valid or not all(isinstance(name, str) and SHA256.fullmatch(name) for name in hashes):
        raise BadManifest("it is not valid")
    return entry

"""The tar file of a backup. Every member is hashed while it is written or read."""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PART_BYTES = 64 << 20
"""Size of the parts in which a stream of unknown length is stored. A part is held in memory."""
SUMS = "SHA256SUMS"
MAX_SUMS_BYTES = 1 << 30


class BackupError(Exception):
    """A backup that cannot be written or restored. The text says why and what to do."""


class HashingReader(io.RawIOBase):
    """A stream that hashes what is read from it. Raises BackupError if an archive ends too early."""

    def __init__(self, stream: IO[bytes]):
        self.stream = stream
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            data = self.stream.read(size)
        except tarfile.ReadError as error:
            raise BackupError(f"This is not a complete backup: {error}.") from error
        self.hash.update(data)
        return data

    @property
    def digest(self) -> str:
        return self.hash.hexdigest()


class ChunkReader(io.RawIOBase):
    """A stream of chunks, of which one is held in memory."""

    def __init__(self, chunks: Iterator[bytes]):
        self.chunks = chunks
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.rest:
            self.rest = memoryview(next(self.chunks, b""))
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


class ArchiveWriter:
    """Writes an archive to a stream. `digests` are the SHA-256 digests of the members so far."""

    def __init__(self, stream: IO[bytes]):
        self.tar = tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self.digests: dict[str, str] = {}
        self.size = 0

    def add(self, name: str, data: bytes) -> None:
        self._add(name, io.BytesIO(data), len(data))

    def add_parts(self, name: str, stream: IO[bytes]) -> None:
        """Store a stream of unknown length as members `name/000000`, `name/000001` and so on."""
        number = 0
        while data := stream.read(PART_BYTES):
            self.add(f"{name}/{number:06}", data)
            number += 1

    def add_file(self, name: str, path: Path) -> None:
        """Store a file. A file that grows is stored with the size it has now.

        Raises FileNotFoundError if it does not exist, and BackupError if it shrinks while it is read.
        """
        with path.open("rb") as file:
            self._add(name, file, os.fstat(file.fileno()).st_size)

    def add_chunks(self, name: str, chunks: Iterator[bytes], size: int) -> None:
        """Store the concatenation of the chunks, which must have this size."""
        self._add(name, io.BufferedReader(ChunkReader(chunks)), size)

    def _add(self, name: str, stream: IO[bytes], size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o600
        reader = HashingReader(stream)
        try:
            self.tar.addfile(member, reader)
        except OSError as error:
            if error.errno is not None:
                raise
            # tarfile raises an OSError without a number if the stream ends too early.
            raise BackupError(f"{name} became shorter while it was read. Try again.") from error
        self.digests[name] = reader.digest
        self.size += size

    def close(self) -> None:
        """Write the digests, and end the archive."""
        sums = "".join(f"{digest}  {name}\n" for name, digest in self.digests.items())
        self._add(SUMS, io.BytesIO(sums.encode()), len(sums.encode()))
        self.tar.close()


class ArchiveReader:
    """Reads the members of an archive in order.

    `members` must be exhausted, and each member read completely, before `verify` is called.
    """

    def __init__(self, stream: IO[bytes]):
        self.stream = stream
        self.digests: dict[str, str] = {}
        self.recorded: dict[str, str] | None = None

    def members(self) -> Iterator[tuple[str, HashingReader]]:
        """Yield the name and the content of each member. Raises BackupError if it is not a backup."""
        try:
            with tarfile.open(fileobj=self.stream, mode="r|") as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is None or self.recorded is not None:
                        raise BackupError(f"{member.name} does not belong in a backup.")
                    if member.name == SUMS:
                        self._read_sums(content, member.size)
                        continue
                    if member.name in self.digests:
                        raise BackupError(f"{member.name} occurs twice in this backup.")
                    reader = HashingReader(content)
                    yield member.name, reader
                    self.digests[member.name] = reader.digest
        except (tarfile.TarError, EOFError) as error:
            raise BackupError(f"This is not a complete backup: {error}.") from error

    def _read_sums(self, content: IO[bytes], size: int) -> None:
        if size > MAX_SUMS_BYTES:
            raise BackupError(f"{SUMS} is too large.")
        lines = content.read().decode(errors="replace").splitlines()
        pairs = [line.partition("  ") for line in lines]
        self.recorded = {name: digest for digest, _, name in pairs}

    def verify(self) -> None:
        """Raise BackupError unless every member is there and has its recorded digest."""
        if self.recorded is None:
            raise BackupError(f"The backup is incomplete: it ends before {SUMS}.")
        missing = self.recorded.keys() - self.digests.keys()
        altered = [n for n, digest in self.digests.items() if self.recorded.get(n) != digest]
        if names := sorted(missing) + sorted(altered):
            raise BackupError(f"The backup is damaged: {names[0]} is missing or was altered.")

"""A bucket with bundles. Every write of an object is one request, which succeeds or changes nothing.

Objects of one bundle are written first, its manifest last, and then objects without a reference are
deleted. A request that fails for a passing reason is repeated for a few seconds; then StorageUnavailable
is raised, and a later call continues where this one ended.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from buckets.addresses import Address
from buckets.manifests import BadManifest, Entry, Manifest, parse

T = TypeVar("T")

PART_BYTES = 32 << 20
AT_ONCE = 4
"""The number of parts that are transferred at the same time. Each is held in memory."""
ROUNDS = 3
PAUSES = (0.3, 1.0, 2.0)
"""The pauses in seconds between the attempts of a request."""
MAX_MANIFEST_BYTES = 256 << 20
MANIFEST = re.compile(r"[a-z]+/(\w[-\w.]*)/manifests/\d+", re.ASCII)
"""The names of manifests. Objects with other names, such as `runs/../x/manifests/1`, are ignored."""
REFUSALS = re.compile(
    r"credential|access.?denied|forbidden|unauthori[sz]ed|authenticat|authori[sz]ation|invalidaccesskey"
    r"|signaturedoesnotmatch|\b40[13]\b",
    re.IGNORECASE,
)


class StorageError(Exception):
    """A problem with the storage. The text says what was wrong and what to do."""


class StorageUnavailable(StorageError):  # noqa: N818
    """The storage does not answer. The call can be repeated later."""


class StorageRefused(StorageError):  # noqa: N818
    """The storage refuses access, or its bucket does not exist."""


class Damaged(StorageError):  # noqa: N818
    """An object is missing or has other content than its manifest says."""


class Superseded(StorageError):  # noqa: N818
    """A writer with a higher token has published the bundle, or the caller has lost its claim."""


class Bucket:
    """The bundles below an address. An instance belongs to one process, and threads may share it."""

    def __init__(self, address: Address, *, part_bytes: int = PART_BYTES):
        self.address = address
        self.part_bytes = part_bytes
        self.fs: Any = address.file_system()
        if hasattr(self.fs, "retries"):
            self.fs.retries = 1  # `_request` repeats requests

    # --- writing ---------------------------------------------------------------------------------

    def publish(
        self,
        name: str,
        files: dict[str, Path],
        *,
        token: int = 0,
        known: Callable[[str, Path], Entry | None] = lambda path, file: None,
        is_valid: Callable[[], bool] = lambda: True,
    ) -> Manifest:
        """Write the files as a bundle, and return its manifest. An earlier state of it is replaced.

        Before the manifest is written, the objects are listed again: an attempt that has just lost its
        claim may have deleted some, or the storage may have been restarted without them.

        `known` returns the entry of a file that is known to be unchanged, which is then not read if its
        objects exist. `is_valid` is asked before the manifest is written. Raises Superseded if it returns
        False or a higher token was published, and FileNotFoundError if a file disappears.
        """
        existing = self._objects(name)
        for _ in range(ROUNDS):
            entries = {}
            for path, file in sorted(files.items()):
                entry = known(path, file)
                if entry is None or not existing.issuperset(entry.parts):
                    entry = self._upload(name, file, existing)
                entries[path] = entry
            uploaded, existing = existing, self._objects(name)
            if existing.issuperset(part for entry in entries.values() for part in entry.parts):
                break
        else:
            missing = len(uploaded - existing)
            raise StorageUnavailable(
                f"{self.address} has lost {missing} objects of {name} that were just written to it."
            )
        manifest = Manifest(token, entries)
        if not is_valid() or max(self._tokens(name), default=token) > token:
            raise Superseded(f"{name} was published by a later attempt.")
        self._write(f"{name}/manifests/{token:012}", manifest.to_bytes())
        self._prune(name, manifest, existing | manifest.objects)
        return manifest

    def _upload(self, name: str, file: Path, existing: set[str]) -> Entry:
        """Write the missing parts of a file. The entry describes the bytes that were read."""
        whole, size, parts = hashlib.sha256(), 0, []
        with file.open("rb") as stream, ThreadPoolExecutor(AT_ONCE) as pool:
            waiting: list[Any] = []
            while data := stream.read(self.part_bytes):
                digest = hashlib.sha256(data).hexdigest()
                whole.update(data)
                size += len(data)
                parts.append(digest)
                if digest not in existing:
                    waiting.append(pool.submit(self._write, f"{name}/objects/{digest}", data))
                    existing.add(digest)
                if len(waiting) >= AT_ONCE:
                    waiting.pop(0).result()
            for future in waiting:
                future.result()
        return Entry(size, whole.hexdigest(), tuple(parts))

    def _prune(self, name: str, manifest: Manifest, existing: set[str]) -> None:
        """Delete earlier manifests, and objects that no manifest names. A failure does not matter now."""
        with suppress(StorageError):
            tokens = self._tokens(name)
            if max(tokens, default=0) > manifest.token:
                return
            for token in tokens - {manifest.token}:
                self._delete(f"{name}/manifests/{token:012}")
            for digest in existing - manifest.objects:
                self._delete(f"{name}/objects/{digest}")

    def remove(self, name: str) -> None:
        """Delete a bundle. From the first step on, readers no longer see it."""
        for token in self._tokens(name):
            self._delete(f"{name}/manifests/{token:012}")
        for digest in self._objects(name):
            self._delete(f"{name}/objects/{digest}")

    def drop(
        self, name: str, is_dropped: Callable[[str], bool]
    ) -> tuple[Manifest, Manifest] | None:
        """Delete the files for whose path `is_dropped` is true. Return the old and the new manifest.

        Return None if the bundle has no such file.
        """
        old = self.manifest(name)
        if old is None or not any(map(is_dropped, old.files)):
            return None
        kept = {path: entry for path, entry in old.files.items() if not is_dropped(path)}
        new = Manifest(old.token, kept)
        self._write(f"{name}/manifests/{new.token:012}", new.to_bytes())
        self._prune(name, new, self._objects(name))
        return old, new

    def copy(self, name: str, source: "Bucket") -> Manifest:
        """Copy a bundle from another bucket. Objects that exist here are not copied again."""
        manifest = source.require(name)
        for digest in sorted(manifest.objects - self._objects(name)):
            self._write(f"{name}/objects/{digest}", source.read_part(name, digest))
        self._write(f"{name}/manifests/{manifest.token:012}", manifest.to_bytes())
        self._prune(name, manifest, self._objects(name))
        return manifest

    # --- reading ---------------------------------------------------------------------------------

    def names(self, root: str) -> list[str]:
        """Return the names of the published bundles below a storage root such as `runs`."""
        found = (MANIFEST.fullmatch(key) for key in self._find(f"{root}/"))
        return sorted({f"{root}/{match[1]}" for match in found if match})

    def manifest(self, name: str) -> Manifest | None:
        """Return the manifest of a bundle, or None if it is not published."""
        for _ in range(3):
            tokens = self._tokens(name)
            if not tokens:
                return None
            try:
                data = self._read(f"{name}/manifests/{max(tokens):012}")
            except FileNotFoundError:  # a later attempt has published in the meantime
                continue
            try:
                if len(data) > MAX_MANIFEST_BYTES:
                    raise BadManifest("it is too large")
                return parse(data)
            except BadManifest as error:
                raise Damaged(f"The manifest of {name} in {self.address}: {error}.") from None
        raise StorageUnavailable(f"{name} in {self.address} changes too often to be read.")

    def require(self, name: str) -> Manifest:
        """Return the manifest of a bundle. Raises Damaged if it is not published."""
        manifest = self.manifest(name)
        if manifest is None:
            raise Damaged(f"{name} is not in {self.address}.")
        return manifest

    def read_part(self, name: str, digest: str) -> bytes:
        """Return the content of an object. Raises Damaged if it is missing or was altered."""
        try:
            data = self._read(f"{name}/objects/{digest}")
        except FileNotFoundError:
            raise Damaged(
                f"An object of {name} is missing in {self.address}. Restore it from a backup."
            ) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise Damaged(
                f"An object of {name} in {self.address} was altered. Restore it from a backup."
            )
        return data

    def parts(self, name: str, entry: Entry) -> Iterator[bytes]:
        """Yield the content of a file in parts. A few are read ahead. Raises Damaged."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            waiting: list[Any] = []
            for digest in entry.parts:
                waiting.append(pool.submit(self.read_part, name, digest))
                if len(waiting) >= AT_ONCE:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()

    def download(self, name: str, entry: Entry, target: Path) -> None:
        """Write a file of a bundle to a new path. Raises Damaged if its hash differs."""
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name[:100]}.{os.getpid()}.download")
        digest, size = hashlib.sha256(), 0
        try:
            with draft.open("wb") as file:
                for data in self.parts(name, entry):
                    digest.update(data)
                    size += file.write(data)
            if size != entry.bytes or digest.hexdigest() != entry.sha256:
                raise Damaged(f"A file of {name} in {self.address} does not have its hash.")
            draft.rename(target)
        finally:
            draft.unlink(missing_ok=True)

    def published_at(self, name: str) -> datetime:
        """Return when the manifest of a bundle was written. Raises Damaged if it is not published."""
        token = self.require(name).token
        try:
            key = self._key(f"{name}/manifests/{token:012}")
            return self._request(lambda: self.fs.modified(key))
        except FileNotFoundError:
            raise Damaged(f"{name} is not in {self.address}.") from None

    def problem_of(self, name: str) -> str | None:
        """Return a sentence about the first missing or altered object of a bundle, or None.

        This reads every byte of it.
        """
        manifest = self.manifest(name)
        if manifest is None:
            return f"{name} is not in {self.address}."
        try:
            for path, entry in manifest.below(""):
                digest = hashlib.sha256()
                for data in self.parts(name, entry):
                    digest.update(data)
                if digest.hexdigest() != entry.sha256:
                    return f"{path} of {name} in {self.address} does not have its hash."
        except Damaged as problem:
            return str(problem)
        return None

    def try_access(self) -> None:
        """Write, read, list and delete an object. Raises StorageError."""
        name = f".check/{os.getpid()}-{time.time_ns()}"
        data = os.urandom(16)
        self._write(name, data)
        try:
            if self._read(name) != data or name not in self._find(".check/"):
                raise StorageRefused(f"{self.address} does not return what was written to it.")
        except FileNotFoundError:
            raise StorageRefused(f"{self.address} does not return what was written.") from None
        finally:
            self._delete(name)

    # --- requests --------------------------------------------------------------------------------

    def _tokens(self, name: str) -> set[int]:
        names = (key.rpartition("/")[2] for key in self._find(f"{name}/manifests/"))
        return {int(token) for token in names if token.isdecimal()}

    def _objects(self, name: str) -> set[str]:
        return {key.rpartition("/")[2] for key in self._find(f"{name}/objects/")}

    def _key(self, name: str) -> str:
        return f"{self.address.root}/{name}"

    def _write(self, name: str, data: bytes) -> None:
        try:
            self._request(lambda: self.fs.pipe_file(self._key(name), data))
        except FileNotFoundError:
            raise StorageRefused(f"{self.address} does not exist. Create its bucket.") from None

    def _read(self, name: str) -> bytes:
        return self._request(lambda: self.fs.cat_file(self._key(name)))

    def _delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._request(lambda: self.fs.rm_file(self._key(name)))

    def _find(self, prefix: str) -> Iterable[str]:
        """Return the names of all objects below a prefix."""
        root = f"{self.address.root}/"

        def find() -> list[str]:
            self.fs.invalidate_cache()
            return [str(key) for key in self.fs.find(self._key(prefix))]

        try:
            return [key.removeprefix(root) for key in self._request(find)]
        except FileNotFoundError:
            return []

    def _request(self, call: Callable[[], T]) -> T:
        """Call the file system, repeatedly if it does not answer. Raises FileNotFoundError."""
        for pause in (*PAUSES, None):
            try:
                return call()
            except FileNotFoundError:
                raise
            except Exception as error:
                problem = self._problem_of(error)
                if pause is None or isinstance(problem, StorageRefused):
                    raise problem from None
                time.sleep(pause)
        raise AssertionError

    def _problem_of(self, error: Exception) -> StorageError:
        """Return a sentence for an error of the file system, without addresses that may be signed."""
        text = re.sub(r"\?\S+", "", str(error).strip().partition("\n")[0])[:200]
        detail = f"{type(error).__name__}: {text}" if text else type(error).__name__
        if isinstance(error, PermissionError) or REFUSALS.search(detail):
            return StorageRefused(
                f"{self.address} refuses access ({detail}). Check the credentials in the environment "
                "and the permissions of the account."
            )
        return StorageUnavailable(
            f"{self.address} does not answer ({detail}). Check the network and the storage."
        )

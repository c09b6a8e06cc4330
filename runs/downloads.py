"""Downloads of published files. They are checked before the first byte is sent, streamed, and hashed."""

import hashlib
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from django.http import FileResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header
from django.utils.text import slugify

from buckets.files import fetch_quietly
from runs.models import Artifact, Run
from runs.supervision import workspace

CHUNK_BYTES = 1 << 20
MAX_CARD_BYTES = 1 << 18
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
BLOCK_BYTES = 512
"""The size of a block in a tar file."""


class FileMissing(Exception):  # noqa: N818
    """Raised if a published file is missing or was changed. The message names it and says what to do."""


class FileChanged(RuntimeError):  # noqa: N818
    """Raised during a download if a file was changed after it was published."""


@dataclass(frozen=True)
class Member:
    """A file to put into the archive.

    `sha256` is empty for a file in a folder, because the folder has one hash for all its files.
    """

    name: str
    path: Path
    bytes: int
    sha256: str


def folder_name(name: str, run: Run) -> str:
    """Return a name for the downloaded folder that every file system accepts."""
    return slugify(name) or f"run-{run.pk}"


def archive(run: Run, *, name: str) -> HttpResponseBase:
    """Return a tar file of all files that the run has published, in a folder named `name`.

    Raises FileMissing if a file is missing or was changed.
    """
    members = [member for artifact in run.artifacts.all() for member in _members(run, artifact)]
    if not members:
        raise FileMissing(f"Run {run.pk} has published no files.")
    response = StreamingHttpResponse(
        _tar(_open_all(members), folder=name, mtime=int(run.created_at.timestamp())),
        content_type="application/x-tar",
    )
    disposition = content_disposition_header(as_attachment=True, filename=f"{name}.tar")
    response["Content-Disposition"] = str(disposition)
    response["Content-Length"] = str(_tar_bytes(members))
    return response


def save(response: HttpResponseBase, path: Path) -> None:
    """Write a download to a new file. If it fails, the file is deleted.

    Raises FileExistsError, another OSError, or FileChanged.
    """
    assert isinstance(response, StreamingHttpResponse)
    with path.open("xb") as file:
        try:
            for chunk in response:
                file.write(chunk)
        except BaseException:
            path.unlink()
            raise


def single_file(run: Run, file: str, *, name: str) -> HttpResponseBase:
    """Return one published file, which the browser saves as `name`. Raises FileMissing."""
    artifact = run.artifacts.filter(name=file).first()
    if artifact is None:
        raise FileMissing(f"Run {run.pk} has published no {file}.")
    (member,) = _members(run, artifact)
    return FileResponse(_open(member), as_attachment=True, filename=name)


def loading_snippet(run: Run, folder: str) -> str:
    """Return the code from the model card that loads the files, or "" if there is no readable card."""
    card = workspace.run_dir_of(run).output / "README.md"
    fetch_quietly(card)
    try:
        with card.open("rb") as file:
            text = file.read(MAX_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    code = CODE.search(text)
    return code.group(1).replace("PATH_OF_THIS_FOLDER", folder) if code else ""


# --- checking -------------------------------------------------------------------------------------


def _members(run: Run, artifact: Artifact) -> list[Member]:
    """Return an artifact's files at their current location. Raises FileMissing."""
    path = workspace.run_dir_of(run).output / artifact.name
    fetch_quietly(path.parent)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        sizes = [file.stat().st_size for file in files]
    except OSError:
        raise FileMissing(f"{path} is missing. Restore it from a backup.") from None
    if sum(sizes) != artifact.bytes:
        raise FileMissing(
            f"{path} has {sum(sizes):,} bytes, but {artifact.bytes:,} were published. Restore it from "
            "a backup."
        )
    digest = "" if path.is_dir() else artifact.sha256
    root = path.parent
    return [
        Member(str(file.relative_to(root)), file, size, digest)
        for file, size in zip(files, sizes, strict=True)
    ]


def _open(member: Member) -> BinaryIO:
    try:
        return member.path.open("rb")
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise FileMissing(f"{member.path} cannot be opened: {reason}.") from None


def _open_all(members: list[Member]) -> list[tuple[Member, BinaryIO]]:
    """Open all files before the download starts, while an error can still be shown on a page."""
    with ExitStack() as stack:
        files = [(member, stack.enter_context(_open(member))) for member in members]
        stack.pop_all()
    return files


# --- the archive ----------------------------------------------------------------------------------


def _tar(files: list[tuple[Member, BinaryIO]], *, folder: str, mtime: int) -> Iterator[bytes]:
    """Yield a tar file in chunks. It ends early if a file was changed after it was published."""
    with ExitStack() as stack:
        for _, file in files:
            stack.enter_context(file)
        for member, file in files:
            yield _header(f"{folder}/{member.name}", member.bytes, mtime)
            yield from _contents(member, file)
            yield b"\0" * (-member.bytes % BLOCK_BYTES)
        yield b"\0" * 2 * BLOCK_BYTES


def _header(name: str, size: int, mtime: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, mtime, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def _contents(member: Member, file: BinaryIO) -> Iterator[bytes]:
    digest, remaining = hashlib.sha256(), member.bytes
    while remaining and (chunk := file.read(min(CHUNK_BYTES, remaining))):
        remaining -= len(chunk)
        digest.update(chunk)
        yield chunk
    if remaining or (member.sha256 and digest.hexdigest() != member.sha256):
        raise FileChanged(
            f"{member.path} was changed after it was published, so the download ends early."
        )


def _tar_bytes(members: list[Member]) -> int:
    """Return the size of the archive in bytes, assuming that each name fits into one header."""
    blocks = sum(1 + -(-member.bytes // BLOCK_BYTES) for member in members)
    return (blocks + 2) * BLOCK_BYTES

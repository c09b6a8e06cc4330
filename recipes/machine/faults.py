"""Messages about full disks, read-only folders and damaged files, each with a remedy.

Libraries report these errors in ways that users cannot understand, such as `enforce fail at
inline_container.cc`. Pages, commands, workers and recipes use this module to explain them. It needs
neither Django nor torch.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
MISSING = (errno.ENOENT, errno.ENOTDIR)
DISK_ERRORS = (errno.EIO,)
FULL_BYTES = 16 << 20

_OS_ERROR = re.compile(r"os error (\d+)")
_NO_PARENT = re.compile(r"^Parent directory .* does not exist")
_TORCH_WRITER = re.compile(r"inline_container\.cc|PytorchStreamWriter|file write failed")


def storage_problem(error: BaseException, folder: str | Path | None = None) -> str | None:
    """Return a sentence with the storage problem, its folder and its remedy, or None.

    None means that the error has another cause. `folder` is used if the error names no file. The
    exceptions that caused the error are examined too.
    """
    cause: BaseException | None = error
    while cause is not None:
        number = _number(cause)
        if number is not None and (sentence := _sentence(number, _folder_of(cause, folder))):
            return sentence
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


@contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Add the folder to errors that name no file, so that `storage_problem` can name it."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str) or _number(error) is None:
            raise
        number = _number(error) or 0
        raise OSError(number, os.strerror(number), str(Path(folder) / "file")) from error


def is_no_space(error: BaseException) -> bool:
    return _number(error) in NO_SPACE


def folder_problem(folder: str | Path) -> str | None:
    """Return a sentence if the disk of the folder is full or files cannot be created, otherwise None."""
    if sentence := disk_is_full(folder):
        return sentence
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return storage_problem(error, folder)


def disk_is_full(folder: str | Path) -> str | None:
    """Return a sentence if the disk of the folder has less than 16 MiB free, otherwise None."""
    try:
        full = shutil.disk_usage(folder).free < FULL_BYTES
    except OSError as error:
        return storage_problem(error, folder)
    return _sentence(errno.ENOSPC, Path(folder)) if full else None


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if match := _OS_ERROR.search(text):  # safetensors and other libraries in Rust
        return int(match[1])
    if _TORCH_WRITER.search(text):
        return errno.ENOSPC
    if _NO_PARENT.search(text):  # also torch
        return errno.ENOENT
    for number in NO_SPACE:
        if os.strerror(number) in text:  # Arrow
            return number
    return None


def _folder_of(error: BaseException, folder: str | Path | None) -> Path | None:
    filename = getattr(error, "filename", None)
    if isinstance(filename, str) and filename.startswith("/"):
        path = Path(filename)
        return path if path.is_dir() else path.parent
    return Path(folder) if folder else None


def _sentence(number: int, folder: Path | None) -> str | None:
    where = str(folder) if folder else "the folder it writes to"
    if number in NO_SPACE:
        return f"No space is left in {where}{_free(folder)}. Free some space, then try again."
    if number == errno.EROFS:
        return (
            f"{where} cannot be written: it is on a read-only file system. Mount it for writing, then "
            "try again. Linux mounts a disk read-only after errors; see the system's log."
        )
    if number in NOT_WRITABLE:
        return (
            f"{where} cannot be written or read: {os.strerror(number).lower()}. Change its owner or "
            "permissions, then try again."
        )
    if number in MISSING and folder and not folder.is_dir():
        return missing_folder(folder)
    if number in DISK_ERRORS:
        return f"The disk of {where} reports an error. Look at the system's log, then try again."
    return None


def missing_folder(folder: Path) -> str:
    """Return a sentence about a folder that was moved or deleted."""
    return (
        f"The folder {folder} is missing. Move it back, or set TIEBREAK_VAR or TIEBREAK_RUNS_DIR "
        "to where it is now. `manage.py doctor` lists everything missing."
    )


def _free(folder: Path | None) -> str:
    try:
        return f" ({shutil.disk_usage(folder).free >> 20:,} MB free)" if folder else ""
    except OSError:
        return ""


def table_errors() -> tuple[type[Exception], ...]:
    """Return the types of errors that pyarrow raises for damaged Parquet files.

    Use it as `except table_errors()`. It imports pyarrow, which takes 30 MB of memory, and in an
    `except` clause it is called only after an error.
    """
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError)


def table_problem(path: str | Path, error: Exception) -> str:
    """Return a sentence about a Parquet file that could not be read."""
    if isinstance(error, FileNotFoundError):
        return f"{path} cannot be read: it is missing. Restore it from a backup."
    if sentence := storage_problem(error, Path(path).parent):
        return sentence
    detail = str(error).strip().partition("\n")[0]
    reason = detail or type(error).__name__
    return f"{path} cannot be read as Parquet: it is damaged or of another format ({reason})."

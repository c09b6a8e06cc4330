"""Verified checkpoints, which are complete on the disk before they get their final name.

Each checkpoint has a manifest with the size and the SHA-256 of every file. It is `manifest.json` in
the folder of the checkpoint, or `.NAME.manifest` next to a checkpoint that is a single file. A run
never resumes from a checkpoint that differs from its manifest or has no manifest. Such a checkpoint
is set aside with a warning, and the run resumes from the newest good one.

    put_in_place(written, run_dir.checkpoints / "checkpoint-40")
    checkpoint = newest_good(run_dir, "checkpoint-*")

This module needs neither Django nor torch.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recipes.rundir import RunDir, atomically, fsync_path, write_atomically

MANIFEST = "manifest.json"
DAMAGED = ".damaged-"
"""The prefix of damaged checkpoints. They are deleted when the next good checkpoint is written."""


# --- writing --------------------------------------------------------------------------------------


def put_in_place(written: Path, final: Path) -> None:
    """Rename the folder `written` to `final` after writing its manifest and syncing every file.

    The rename comes last, so that after a power failure, a checkpoint named `final` is complete.
    """
    files = {name: _entry(written / name) for name in _names(written)}
    for name in files:
        fsync_path(written / name)
    write_atomically(written / MANIFEST, json.dumps({"files": files}, indent=1))
    for folder in {written, *((written / name).parent for name in files)}:
        fsync_path(folder)
    shutil.rmtree(final, ignore_errors=True)
    written.rename(final)
    fsync_path(final.parent)
    forget_damaged(final.parent)


@contextmanager
def sealed(path: Path) -> Iterator[Path]:
    """Yield a draft path. If the block succeeds, it becomes the file `path`, with a manifest."""
    with atomically(path) as draft:
        yield draft
        write_atomically(_manifest_of(path), json.dumps({"files": {path.name: _entry(draft)}}))
    fsync_path(path.parent)


def forget_damaged(folder: Path) -> None:
    for path in folder.glob(f"{DAMAGED}*"):
        shutil.rmtree(path, ignore_errors=True)


# --- reading --------------------------------------------------------------------------------------


def by_age(run_dir: RunDir, pattern: str) -> list[Path]:
    """Return the checkpoints whose names match the pattern, oldest first, without verifying them.

    Names without a step number are skipped. Incomplete checkpoints of a killed process have hidden
    names, which do not match.
    """
    paths = [path for path in run_dir.checkpoints.glob(pattern) if step_of(path) is not None]
    return sorted(paths, key=lambda path: step_of(path) or 0)


def step_of(path: Path) -> int | None:
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else None


def newest_good(run_dir: RunDir, pattern: str) -> Path | None:
    """Return the newest checkpoint that agrees with its manifest, or None.

    The whole checkpoint is read. Each damaged checkpoint is set aside with a warning.
    """
    for path in reversed(by_age(run_dir, pattern)):
        problem = problem_of(path)
        if problem is None:
            return path
        _set_aside(path)
        run_dir.message(
            f"{path.name} is damaged: {problem}. An earlier checkpoint is used instead, if there is "
            "one. Check the disk if this happens again.",
            level="warning",
        )
    return None


def delete_if_damaged(run_dir: RunDir, path: Path) -> None:
    """Delete a checkpoint of a single file, with a warning, if it differs from its manifest.

    If there is a file at `path` afterwards, it is a good checkpoint. The whole file is read.
    """
    if not path.exists() or (problem := problem_of(path)) is None:
        return
    path.unlink(missing_ok=True)  # another process may have deleted it first
    run_dir.message(
        f"{path.name} is damaged: {problem}. This part is computed again. Check the disk if this "
        "happens again.",
        level="warning",
    )


def problem_of(path: Path) -> str | None:
    """Return the reason why a checkpoint is unusable, as a clause, or None if it is good."""
    folder, manifest = (
        (path, path / MANIFEST) if path.is_dir() else (path.parent, _manifest_of(path))
    )
    try:
        files = json.loads(manifest.read_bytes())["files"]
        expected = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError:
        return "it has no manifest"
    except OSError as error:
        return f"its manifest cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest is not valid"
    if not expected:
        return "its manifest names no files"
    problems = (_file_problem(folder, name, *entry) for name, entry in sorted(expected.items()))
    return next(filter(None, problems), None)


def _file_problem(folder: Path, name: str, size: Any, digest: Any) -> str | None:
    path = folder / name
    try:
        actual = path.stat().st_size
        if actual != size:
            return f"{name} has {actual} bytes instead of {size}"
        if sha256(path) != digest:
            return f"{name} was changed after it was written"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _names(folder: Path) -> list[str]:
    return sorted(
        os.path.relpath(path, folder)
        for path in folder.rglob("*")
        if path.is_file() and path != folder / MANIFEST
    )


def _manifest_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.manifest")


def _set_aside(path: Path) -> None:
    target = path.with_name(f"{DAMAGED}{path.name}")
    shutil.rmtree(target, ignore_errors=True)
    with suppress(FileNotFoundError):  # another process may have moved it first
        path.rename(target)

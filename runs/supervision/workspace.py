"""The directory of a run. It is created once, locked during an attempt, and hashed at the end."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import settings

from buckets import files
from buckets.bucket import StorageError
from recipes.rundir import ENDED, RunDir, versions, write_atomically
from recipes.training import checkpoints
from runs import storage
from runs.kinds import CannotRun, RunKind
from runs.models import Artifact, Run

PREPARED = ".prepared"
LOCK = ".lock"
FINISHED = ".finished"
"""Name of the file that marks a directory whose recipe has finished, so that it is not repeated."""
TAKEN_OVER = ".taken-over"
"""Name of the file with the fencing token of an attempt that waits for the lock of an earlier one."""
STALE_SECONDS = 3
NOTE_BYTES = 400


def run_dir_of(run: Run) -> RunDir:
    return RunDir(settings.RUNS_DIR / str(run.pk))


def _commit() -> str:
    try:
        process = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return process.stdout.strip()


def prepare(run: Run, kind: RunKind) -> RunDir:
    """Create the run directory, and let the kind fill `data/`. Later attempts use it again.

    After a crash, partial contents are deleted and created again. Raises CannotRun if a file that the
    run needs is missing or was changed, or if the folder belongs to a run in another database.
    """
    run_dir, marker = run_dir_of(run), run.created_at.isoformat()
    prepared = run_dir.path / PREPARED
    if prepared.exists():
        if prepared.read_text() != marker:
            raise CannotRun(
                f"{run_dir.path} belongs to a run in another database. Move it away, or set "
                "TIEBREAK_RUNS_DIR to a folder that only this database uses."
            )
        _update_folders(run, kind, run_dir)
        return run_dir
    for folder in (run_dir.data, run_dir.checkpoints, run_dir.output):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (run_dir.path / "run.json", run_dir.events_file):
        file.unlink(missing_ok=True)
    spec = {
        "kind": run.kind,
        "run_id": run.pk,
        "config": config_with_paths(run, kind),
        "inputs": run.inputs,
        "versions": {"tiebreak": _commit(), **versions()},
    }
    RunDir.create(run_dir.path, spec)
    more = kind.prepare(run, run_dir)
    if more:
        spec["inputs"] = {**run.inputs, **more}
        _write_spec(run_dir, spec)
    write_atomically(prepared, marker)
    return run_dir


def _write_spec(run_dir: RunDir, spec: dict[str, Any]) -> None:
    write_atomically(run_dir.path / "run.json", json.dumps(spec, indent=2, sort_keys=True) + "\n")


def write_input(run: Run, kind: RunKind, folder: Path) -> RunDir:
    """Write the settings and the data of a run that is not stored to a temporary run directory.

    Raises CannotRun, as `prepare` does.
    """
    try:
        spec = {"kind": run.kind, "config": config_with_paths(run, kind), "inputs": run.inputs}
        run_dir = RunDir.create(folder, spec)
        kind.prepare(run, run_dir)
    except StorageError as problem:
        raise CannotRun(str(problem)) from None
    return run_dir


def config_with_paths(run: Run, kind: RunKind) -> dict[str, Any]:
    """Return the config for the recipe, with absolute paths of folders.

    Files that runs have published are copied from an object store if necessary, read and hashed. Raises
    CannotRun if one is missing or was changed, and StorageError.
    """
    config = dict(run.config)
    for name in kind.folders & config.keys():
        if config[name]:
            try:
                files.fetch(storage.resolve(config[name]))
                storage.check(config[name], digests=True)
            except storage.MissingFiles as problem:
                raise CannotRun(str(problem)) from None
            config[name] = storage.resolve(config[name])
    return config


def _update_folders(run: Run, kind: RunKind, run_dir: RunDir) -> None:
    """Update the paths of folders in run.json, because var/ may be moved between two attempts."""
    spec = run_dir.spec()
    config = config_with_paths(run, kind)
    changed = {name: config[name] for name in kind.folders & config.keys()}
    if any(spec["config"].get(name) != value for name, value in changed.items()):
        _write_spec(run_dir, {**spec, "config": {**spec["config"], **changed}})


def last_checkpoint(run_dir: RunDir) -> int | None:
    """Return the step of the newest intact checkpoint, or None. This reads every byte of it."""
    for path in reversed(checkpoints.by_age(run_dir, "[!.]*")):
        if checkpoints.problem_of(path) is None:
            return checkpoints.step_of(path)
    return None


def resume_point(run_dir: RunDir) -> str:
    """Return the point from which a restarted recipe resumes, for a message, or "" if there is none.

    This reads every byte of the newest checkpoint.
    """
    step = last_checkpoint(run_dir)
    if step is not None:
        return f"step {step}"
    done = 0
    for part in run_dir.parts():
        if part.is_done():
            done += 1
        elif (step := last_checkpoint(part)) is not None:
            return f"step {step} of {part.path.relative_to(run_dir.path)}"
    return f"{done} finished part{'s' if done > 1 else ''}" if done else ""


def has_checkpoint(run_dir: RunDir) -> bool:
    """Return whether a restarted recipe could resume. Checkpoints are not read, so they may be damaged."""
    if files.is_remote() and not run_dir.path.is_dir():
        return _has_published_checkpoint(run_dir)
    folders = [run_dir, *run_dir.parts()]
    written = any(checkpoints.by_age(folder, "[!.]*") for folder in folders)
    return written or any(part.is_done() for part in run_dir.parts())


def _has_published_checkpoint(run_dir: RunDir) -> bool:
    try:
        return any("checkpoints/" in f"/{name}" for name in files.entries_below(run_dir.path))
    except StorageError:
        return True


def forget_endings(run_dir: RunDir) -> None:
    for file in run_dir.path.glob(f"{ENDED}*"):
        file.unlink(missing_ok=True)


def recorded_ending(run_dir: RunDir) -> int | None:
    """Return the exit status that a process recorded when it ended early, or None.

    The recipe's processes record it because their launcher does not pass it on.
    """
    for file in run_dir.path.glob(f"{ENDED}*"):
        with suppress(OSError, ValueError):
            return int(file.read_text())
    return None


def mark_finished(run_dir: RunDir) -> None:
    if run_dir.output.is_dir():
        write_atomically(run_dir.path / FINISHED, "")


def is_finished(run_dir: RunDir) -> bool:
    return (run_dir.path / FINISHED).exists() and run_dir.output.is_dir()


def forget_finished(run_dir: RunDir) -> None:
    (run_dir.path / FINISHED).unlink(missing_ok=True)


def log_of(run_dir: RunDir) -> Path:
    return run_dir.path / "log.txt"


def log_tail(path: Path, size: int, *, after: int = 0) -> str:
    """Return the last `size` bytes of a log as text, but nothing before byte `after`.

    Return "" if there is no readable log.
    """
    with suppress(OSError), path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(after, end - size))
        return file.read().decode("utf-8", "replace").replace("\0", "")
    return ""


# --- one attempt at a time ------------------------------------------------------------------------


@contextmanager
def lock_run_dir(run: Run, waiting: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Lock the run directory, and yield the lock's descriptor.

    The lock is held until all processes that inherit it have ended. The lease of an earlier holder has
    expired. If it is on this machine, it is killed. On another machine, which may be cut off from the
    database, its watchdog finds the file that this writes, and kills the recipe. While this waits for
    the lock, it calls `waiting` about once per second. `waiting` may raise an error to end the wait.
    Raises CannotRun if the lock cannot be acquired.
    """
    folder = run_dir_of(run).path
    folder.mkdir(parents=True, exist_ok=True)

    def take_over() -> None:
        # Again and again, because an attempt that gets the lock deletes the file.
        with suppress(OSError):
            write_atomically(folder / TAKEN_OVER, str(run.fencing_token))
        waiting()

    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _lock_within(descriptor, STALE_SECONDS, waiting):
            _kill_holder(descriptor)
            if not _lock_within(descriptor, 4 * STALE_SECONDS, take_over):
                raise CannotRun(
                    f"An earlier attempt is still writing to {folder}, perhaps on another machine. "
                    "Stop that process, and then continue the run."
                )
        with suppress(OSError):
            (folder / TAKEN_OVER).unlink(missing_ok=True)
        note_holder(descriptor, None)
        yield descriptor
    finally:
        os.close(descriptor)


def note_holder(descriptor: int, watchdog_pid: int | None) -> None:
    note = json.dumps({"host": socket.gethostname(), "watchdog": watchdog_pid}).encode()
    os.pwrite(
        descriptor, note.ljust(NOTE_BYTES), 0
    )  # in place, which needs no space on a full disk


def fence_of(run_dir: RunDir, token: int) -> str:
    """Return the argument with which a watchdog kills this attempt's recipe once it is taken over."""
    return f"{token}:{run_dir.path / TAKEN_OVER}"


def _lock_within(descriptor: int, seconds: float, waiting: Callable[[], None]) -> bool:
    deadline = time.monotonic() + seconds
    call_at = 0.0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            if time.monotonic() >= call_at:
                waiting()
                call_at = time.monotonic() + 1
            time.sleep(0.05)
        else:
            return True


def _kill_holder(descriptor: int) -> None:
    """Send SIGTERM to the watchdog that holds the lock. It then kills its recipe."""
    try:
        holder = json.loads(os.pread(descriptor, 1000, 0) or b"{}")
    except ValueError:
        return
    if holder.get("host") == socket.gethostname() and holder.get("watchdog"):
        with suppress(ProcessLookupError):
            os.kill(holder["watchdog"], signal.SIGTERM)


# --- output ---------------------------------------------------------------------------------------


def artifacts(run: Run, run_dir: RunDir) -> list[Artifact]:
    """Return an unsaved row for each file or folder in `output/`. This reads every byte of them.

    Raises CannotRun if nothing was published.
    """
    if not run_dir.output.is_dir():
        raise CannotRun("The recipe ended without an error, but published no output.")
    return [_artifact(run, path) for path in sorted(run_dir.output.iterdir())]


def _artifact(run: Run, path: Path) -> Artifact:
    files = storage.files_of(path)
    return Artifact(
        run=run,
        name=path.name,
        path=storage.stored(path),
        bytes=sum(file.stat().st_size for file in files),
        sha256=storage.digest_of(path, files),
    )

"""Run directories: the files of a run, which need neither Django nor a database.

run.json        the frozen config: kind, hyper-parameters, inputs, versions
data/*.parquet  the input
events.jsonl    one JSON object per line; lines are only appended
checkpoints/    complete checkpoints only
parts/          run directories for the work of the recipe on parts of the data or in rounds
output/         the results, which appear all at the same time
"""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STOPPED = 75
"""The exit status of a recipe that was asked to stop and has written a checkpoint."""

RESTART = 76
"""The exit status of a recipe that must be started again, with the settings that it has recorded."""

TRAINER_FOLDER = ".tmp-trainer"
"""The folder in checkpoints/ to which Trainer writes. No run resumes from it."""

ENDED = ".ended-"
"""Prefix of the file in which the first of several processes to end early records its exit status.
Their launcher does not pass it on."""

MOVED_BASE = ".base"
"""The file next to output/ with the new location of the adapter's base model after it was moved."""

PACKAGES = (
    "accelerate", "datasets", "numpy", "peft", "pyarrow", "tokenizers", "torch", "transformers",
    "trl",
)  # fmt: skip


class RunDirError(Exception):
    """A folder that cannot be used as a run directory. The text says why."""


class RunDir:
    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.observers: list[Callable[[str, dict[str, Any]], None]] = []
        """Functions that are called with each event that this object has written."""

    @property
    def whole(self) -> "RunDir":
        """Return the run that this run directory is a part of, or itself."""
        return self

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def output(self) -> Path:
        return self.path / "output"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    def parts(self) -> list["RunDir"]:
        """Return the run directories inside this one, for work on parts of the data or in rounds."""
        return [RunDir(path) for path in sorted(self.path.glob("parts/[!.]*"))]

    def is_done(self) -> bool:
        """Return whether a part has its result, which is any file other than its events."""
        files = (path for path in self.path.glob("[!.]*") if path.is_file())
        return any(path != self.events_file for path in files)

    @classmethod
    def create(cls, path: str | Path, spec: dict[str, Any]) -> "RunDir":
        """Create a run directory, or return the existing one if it has the same `spec`.

        Raises RunDirError if the folder already contains a different run.
        """
        run_dir = cls(path)
        run_dir.data.mkdir(parents=True, exist_ok=True)
        run_dir.checkpoints.mkdir(exist_ok=True)
        spec_file = run_dir.path / "run.json"
        if spec_file.exists():
            if run_dir.spec() != json.loads(json.dumps(spec)):
                raise RunDirError(f"{spec_file} belongs to a different run; choose another folder.")
            return run_dir
        write_atomically(spec_file, json.dumps(spec, indent=2, sort_keys=True) + "\n")
        return run_dir

    def spec(self) -> dict[str, Any]:
        """Return the contents of run.json. Raises RunDirError if it is missing or not a JSON object."""
        spec_file = self.path / "run.json"
        try:
            spec = json.loads(spec_file.read_text())
        except FileNotFoundError:
            raise RunDirError(
                f"{spec_file} does not exist: {self.path} is not a run directory."
            ) from None
        except ValueError as error:
            raise RunDirError(f"{spec_file} is not valid JSON: {error}.") from None
        if not isinstance(spec, dict):
            raise RunDirError(f"{spec_file} is not a JSON object.")
        return spec

    def emit(self, event: str, **fields: Any) -> None:
        """Append an event. A line is written in one call, so readers never see a part of it.

        Only a full disk can cut a line off. The next event then begins on a new line. Raises OSError.
        """
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            **fields,
        }
        data = (json.dumps(line, allow_nan=False, default=float) + "\n").encode()
        descriptor = os.open(self.events_file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if _ends_within_line(descriptor):
                data = b"\n" + data
            while data:  # on a full disk, the second call reports the error that the first one met
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)
        for observer in self.observers:
            observer(event, fields)

    def message(self, text: str, level: str = "info") -> None:
        self.emit("message", level=level, text=text)

    def stage(self, text: str) -> None:
        """Set the activity of the run that is shown until the next stage or progress event."""
        self.emit("stage", text=text)

    def events(self) -> list[dict[str, Any]]:
        """Return all complete events so far, oldest first.

        Incomplete lines, which a full disk can cause, are skipped.
        """
        if not self.events_file.exists():
            return []
        events = []
        for line in self.events_file.read_bytes().split(b"\n")[:-1]:
            with suppress(ValueError):
                events.append(json.loads(line))
        return events

    @contextmanager
    def publish(self) -> Iterator[Path]:
        """Yield a folder. If the block succeeds, it becomes `output/`; otherwise it is deleted."""
        self.stage("Writing the results")
        draft = self.path / ".output-draft"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            yield draft
            for path in [*draft.rglob("*"), draft]:
                fsync_path(path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        replaced = self.path / ".output-replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        if self.output.exists():
            self.output.rename(replaced)
        draft.rename(self.output)
        shutil.rmtree(replaced, ignore_errors=True)


def _ends_within_line(descriptor: int) -> bool:
    """Return whether the last line of the open file is incomplete."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    return bool(end) and os.pread(descriptor, 1, end - 1) != b"\n"


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Yield a draft path. If the block succeeds, the draft becomes the file `path`."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        fsync_path(draft)
    except BaseException:
        draft.unlink(missing_ok=True)  # half a file would keep a full disk full
        raise
    draft.rename(path)


def write_atomically(path: Path, text: str) -> None:
    with atomically(path) as draft:
        draft.write_text(text)


def fsync_path(path: Path) -> None:
    """Wait until the file or folder is on the disk. Call it before a rename that depends on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results.

    The packages are not imported.
    """
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link to the file or, if that is impossible, a copy.

    With a link, a change of one file would change the other. So both must be replaced, never written to.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

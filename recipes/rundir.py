"""A run as plain files: what a recipe reads and writes, on a machine with neither Django nor a database.

run.json        frozen config: kind, hyper-parameters, inputs, versions
data/*.parquet  the input
events.jsonl    one JSON object a line, append only
checkpoints/    complete ones only
parts/          run directories of their own, for what a recipe does on parts of the data
output/         published whole or not at all
"""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STOPPED = 75
"""Exit status of a recipe that wrote a checkpoint and stopped because it was asked to."""

AGAIN = 76
TRAINER_FOLDER = ".tmp-trainer"
"""Where Trainer writes, inside checkpoints/. Nothing in it is ever resumed from."""
"""Exit status of a recipe that goes on when it is started again, having noted what to do otherwise."""

ENDED = ".ended-"
"""Begins the name of the file in which the first of several processes to end early leaves its exit
status, since their launcher passes none on."""

MOVED_BASE = ".base"
"""The file next to output/ that says where the base of its adapter is, once that has moved."""

PACKAGES = (
    "accelerate", "datasets", "numpy", "peft", "pyarrow", "tokenizers", "torch", "transformers",
    "trl",
)  # fmt: skip


class RunDirError(Exception):
    """The folder is not a run directory that can be worked with; the text says why."""


class RunDir:
    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def whole(self) -> "RunDir":
        """The run that this is a part of, or itself."""
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
        """The run directories inside this one, for what a recipe does on parts of the data."""
        return [RunDir(path) for path in sorted(self.path.glob("parts/[!.]*"))]

    def is_done(self) -> bool:
        """Of a part: whether it holds what it was for, beside its checkpoints and events."""
        found = (path for path in self.path.glob("[!.]*") if path.is_file())
        return any(path != self.events_file for path in found)

    @classmethod
    def create(cls, path: str | Path, spec: dict[str, Any]) -> "RunDir":
        """Lay out a new run directory, or return the existing one if `spec` is what it was made for.

        Raises RunDirError when the folder already holds a different run.
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
        """The whole of run.json. Raises RunDirError when it is missing or is not JSON."""
        spec_file = self.path / "run.json"
        try:
            return json.loads(spec_file.read_text())
        except FileNotFoundError:
            raise RunDirError(
                f"{spec_file} does not exist: {self.path} is not a run directory."
            ) from None
        except json.JSONDecodeError as error:
            raise RunDirError(f"{spec_file} is not JSON: {error}.") from None

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event; a line is written whole, in one call, so a reader never sees half of one."""
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            **fields,
        }
        data = (json.dumps(line, allow_nan=False, default=float) + "\n").encode()
        descriptor = os.open(self.events_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def message(self, text: str, level: str = "info") -> None:
        self.emit("message", level=level, text=text)

    def stage(self, text: str) -> None:
        """Tell what the run does from now on, until the next stage or progress event."""
        self.emit("stage", text=text)

    def events(self) -> list[dict[str, Any]]:
        """Every complete event so far, oldest first. A torn last line (a full disk) is left out."""
        if not self.events_file.exists():
            return []
        lines = self.events_file.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line]

    @contextmanager
    def publish(self) -> Iterator[Path]:
        """A folder to write into, which becomes `output/` when the block ends without an error.

        After an error nothing of it is left.
        """
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


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A draft to write, which becomes the file `path` when the block ends without an error."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        fsync_path(draft)
    except BaseException:
        draft.unlink(missing_ok=True)  # on a full disk, half a file is in the way of everything
        raise
    draft.rename(path)


def write_atomically(path: Path, text: str) -> None:
    with atomically(path) as draft:
        draft.write_text(text)


def fsync_path(path: Path) -> None:
    """Wait until the file or folder is on the disk, so that a rename cannot get there before it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide a result, from metadata: nothing is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

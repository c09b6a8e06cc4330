"""The sizes of the files of runs. Only this module writes `Run.disk`, where they are cached."""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from buckets import files
from recipes.rundir import RunDir
from runs.models import ENDED, Run
from runs.supervision import workspace

REMOVED = ".removed-"
"""The prefix of files that a clean-up has renamed and not yet deleted."""

RECORDS = frozenset({"README.md", "report.json"})
"""Published files that describe a result. A clean-up never removes them."""


@dataclass(frozen=True)
class Usage:
    """The bytes of a run's files.

    working    checkpoints and parts, from which a run resumes
    published  the results, without their report and model card
    records    everything else: settings, input, events, log, report and model card
    """

    working: int = 0
    published: int = 0
    records: int = 0

    @property
    def total(self) -> int:
        return self.working + self.published + self.records


def working_paths(run_dir: RunDir) -> list[Path]:
    """Return the existing files and folders that only a resumed run needs."""
    contents = _children(run_dir.checkpoints) + _children(run_dir.path / "parts")
    return contents + [path for path in _children(run_dir.path) if path.name.startswith(REMOVED)]


def published_paths(run_dir: RunDir) -> list[Path]:
    """Return the existing published files and folders that are not records."""
    return [path for path in _children(run_dir.output) if path.name not in RECORDS]


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def measure(run: Run) -> Usage:
    """Return the sizes of a run's files, read from the disk, or from the object store if there is one.

    Files that are hard links to others, such as those of a snapshot, take no space of their own on a disk.
    """
    run_dir = workspace.run_dir_of(run)
    if files.is_remote() and run.state in ENDED:
        return _published_usage(run_dir)
    working = sum(map(_bytes_of, working_paths(run_dir)))
    published = sum(map(_bytes_of, published_paths(run_dir)))
    return Usage(working, published, _bytes_of(run_dir.path) - working - published)


def _published_usage(run_dir: RunDir) -> Usage:
    """Return the sizes of a run's files in the object store. Costs two requests. Raises StorageError."""
    sizes = {path: entry.bytes for path, entry in files.entries_below(run_dir.path).items()}
    working = sum(size for path, size in sizes.items() if is_working(path))
    published = sum(size for path, size in sizes.items() if is_published(path))
    return Usage(working, published, sum(sizes.values()) - working - published)


def is_working(path: str) -> bool:
    """Return whether only a resumed run needs a file, by its path in the run directory."""
    return path.startswith(("checkpoints/", "parts/"))


def is_published(path: str) -> bool:
    """Return whether a file is published and not a record, by its path in the run directory."""
    folder, _, rest = path.partition("/")
    return folder == "output" and rest.partition("/")[0] not in RECORDS


def _bytes_of(path: Path) -> int:
    total = 0
    for entry in _files(path):
        try:
            status = entry.lstat()
        except OSError:
            continue
        total += status.st_size if status.st_nlink == 1 else 0
    return total


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        for name in names:
            yield Path(folder, name)


def usage_of(runs: Iterable[Run]) -> dict[int, Usage]:
    """Return the sizes by the id of the run.

    The sizes of a run that has ended are read from the disk once, and again after it has changed. New
    sizes are saved with one statement for all runs.
    """
    usages, changed = {}, []
    for run in runs:
        if run.disk is not None and run.disk_measured_at and _is_current(run):
            usages[run.pk] = Usage(**run.disk)
            continue
        usages[run.pk] = measure(run)
        run.disk, run.disk_measured_at = asdict(usages[run.pk]), timezone.now()
        changed.append(run)
    Run.objects.bulk_update(changed, ["disk", "disk_measured_at"], batch_size=500)
    return usages


def _is_current(run: Run) -> bool:
    measured = run.disk_measured_at
    return (
        run.state in ENDED
        and measured is not None
        and run.finished_at is not None
        and (measured > run.finished_at)
    )


def forget(run: Run) -> None:
    """Let the sizes of a run be read from the disk again."""
    Run.objects.filter(pk=run.pk).update(disk=None, disk_measured_at=None)


def free_bytes() -> int | None:
    """Return the free space of the disk with the run directories, or None if it cannot be read."""
    try:
        return shutil.disk_usage(settings.RUNS_DIR).free
    except OSError:
        return None

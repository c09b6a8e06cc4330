"""The checks of an installation's files that `manage.py doctor` runs.

The checks are independent of each other and change nothing. They describe each problem in a sentence.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from buckets import files
from buckets.addresses import WrongAddress
from buckets.bucket import StorageError
from config import stray_files
from finetune.models import Model
from recipes.preferences.groups import PreferenceError, content_hash, read_groups
from reward.models import RewardModel, Snapshot
from runs import kinds, storage
from runs.kinds import CannotRun
from runs.launchers import ray_jobs
from runs.models import ENDED, Run, State
from runs.supervision import workspace

MIN_FREE_BYTES = 2 << 30
"""Minimum free space on a disk. It is enough for a checkpoint of a small model."""

FOLDERS = {
    "TIEBREAK_VAR": "VAR_DIR",
    "TIEBREAK_RUNS_DIR": "RUNS_DIR",
    "TIEBREAK_SNAPSHOTS_DIR": "SNAPSHOTS_DIR",
    "TIEBREAK_UPLOADS_DIR": "UPLOADS_DIR",
}


@dataclass(frozen=True)
class Problem:
    """A problem with the part of the installation that `about` names.

    If `serious` is False, it is only a warning: nothing fails yet, but someone should investigate.
    """

    about: str
    sentence: str
    serious: bool = True


def examine(*, digests: bool = True) -> Iterator[Problem]:
    """Yield every problem. With `digests`, all snapshots and published files are read completely."""
    yield from folders()
    yield from cluster()
    try:
        yield from storage_access()
    except (StorageError, WrongAddress) as problem:
        yield Problem("storage", str(problem))
        return
    if unapplied := unapplied_migrations():
        yield Problem(
            "database",
            f"{unapplied} migrations are not applied, so rows were not examined. Run "
            "manage.py migrate first.",
        )
        return
    yield from bundles(digests)
    yield from snapshots(digests)
    yield from models(digests)
    yield from outputs(digests)
    yield from waiting_runs()
    yield from unknown_run_folders()


def cluster() -> Iterator[Problem]:
    """Ask the Ray cluster for its version if runs are executed there, and yield a problem if it fails."""
    if settings.LAUNCHER != "ray":
        return
    with ray_jobs.connect(settings.RAY_ADDRESS, settings.RAY_TOKEN) as ray:
        try:
            ray.version()
            ray.all()
        except ray_jobs.RayError as error:
            yield Problem(
                "cluster",
                f"{error} Check that the head node runs, and TIEBREAK_RAY_ADDRESS and "
                "TIEBREAK_RAY_TOKEN. Queued runs wait.",
            )


def folders() -> Iterator[Problem]:
    """Write to each folder, and yield a problem if that fails or if its disk is almost full."""
    disks: set[int] = set()
    for variable, name in FOLDERS.items():
        folder = Path(getattr(settings, name)).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")
                file.flush()
        except OSError as error:
            yield Problem(
                "folder",
                f"{folder} cannot be written to: {error.strerror}. Make room or change its owner, or "
                f"point {variable} elsewhere.",
            )
            continue
        disk = folder.stat().st_dev
        free = shutil.disk_usage(folder).free
        if free < MIN_FREE_BYTES and disk not in disks:
            yield Problem(
                "disk",
                f"The disk of {folder} has {free >> 20} MB left. Runs write checkpoints of "
                "several gigabytes. Free some space.",
                serious=False,
            )
        disks.add(disk)


def storage_access() -> Iterator[Problem]:
    """Write, read, list and delete an object in the object store. Raises StorageError."""
    if files.is_remote():
        files.bucket().try_access()
    yield from ()


def bundles(digests: bool) -> Iterator[Problem]:
    """Yield problems with the object store: missing, altered and unknown bundles.

    With `digests`, everything that rows need is read. Nothing of it is written to this machine.
    """
    if not files.is_remote():
        return
    for name in stray_files.missing():
        yield Problem(name, f"{name} is not in {settings.STORAGE}. Restore it from a backup.")
    for name in stray_files.stray():
        yield Problem(
            name, "It belongs to no row. manage.py clean_storage deletes it.", serious=False
        )
    for name in sorted(stray_files.named_by_rows()) if digests else ():
        if files.bucket().manifest(name) and (sentence := files.bucket().problem_of(name)):
            yield Problem(name, sentence)


def unapplied_migrations() -> int:
    executor = MigrationExecutor(connection)
    return len(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def snapshots(digests: bool) -> Iterator[Problem]:
    for snapshot in Snapshot.objects.order_by("pk").iterator():
        if not snapshot.file.is_file():
            yield Problem(
                f"snapshot {snapshot.pk}",
                f"{snapshot.file} is missing. Restore it from a backup, or set "
                "TIEBREAK_SNAPSHOTS_DIR to where it is now.",
            )
        elif digests and (sentence := _alteration(snapshot)):
            yield Problem(f"snapshot {snapshot.pk}", sentence)


def _alteration(snapshot: Snapshot) -> str:
    try:
        digest = content_hash(read_groups(snapshot.file))
    except PreferenceError as error:
        return f"{error} Restore it from a backup, or freeze a new snapshot."
    if digest == snapshot.content_hash:
        return ""
    return (
        f"{snapshot.file} was altered after it was frozen. Restore it from a "
        "backup, or freeze a new snapshot."
    )


def models(digests: bool) -> Iterator[Problem]:
    """Yield problems with the folders of adapters, reward models and base models.

    Models whose files a clean-up has removed are left out.
    """
    reward_models = RewardModel.objects.filter(run__files_removed_at=None)
    rows = [(f"reward model {m.pk} ({m})", m.path, m.base) for m in reward_models.iterator()]
    own = Model.objects.filter(endpoint="", run__files_removed_at=None).iterator()
    rows += [(f"model {m.pk} ({m})", m.adapter, m.base) for m in own]
    for about, *values in rows:
        for value in filter(None, values):
            try:
                storage.check(value, digests=digests)
            except storage.MissingFiles as problem:
                yield Problem(about, str(problem))


def outputs(digests: bool) -> Iterator[Problem]:
    """Yield problems with the files of successful runs, except runs that `models` examines."""
    of_models = set(RewardModel.objects.values_list("run_id", flat=True))
    of_models |= set(Model.objects.exclude(run=None).values_list("run_id", flat=True))
    runs = Run.objects.filter(state=State.SUCCEEDED, files_removed_at=None).order_by("pk")
    runs = runs.exclude(pk__in=of_models)
    for run in runs.prefetch_related("artifacts").iterator(chunk_size=500):
        if sentence := storage.problem_of(run.artifacts.all(), digests=digests):
            yield Problem(f"run {run.pk}", f"{sentence} Its results are in the database.", False)


def waiting_runs() -> Iterator[Problem]:
    """Yield a problem for each run that would fail as soon as a worker claims it."""
    for run in Run.objects.exclude(state__in=ENDED).order_by("pk"):
        try:
            for name in kinds.get(run.kind).folders:
                storage.check(run.config.get(name) or "")
        except (CannotRun, storage.MissingFiles) as problem:
            yield Problem(f"run {run.pk}", f"It is {run.state} and will fail: {problem}")


def unknown_run_folders() -> Iterator[Problem]:
    """Yield a problem for each run directory without a row in this database.

    It belongs to another database or to a deleted run.
    """
    root = Path(settings.RUNS_DIR)
    numbers = [int(p.name) for p in root.glob("[0-9]*") if p.is_dir() and p.name.isdecimal()]
    existing = set(Run.objects.filter(pk__in=numbers).values_list("pk", flat=True))
    for number in sorted(set(numbers) - existing):
        yield Problem(
            f"folder {number}",
            f"{root / str(number)} belongs to no run in this database, and a new run {number} would be "
            "refused because of it. Move the folder away.",
            serious=(root / str(number) / workspace.PREPARED).exists(),
        )

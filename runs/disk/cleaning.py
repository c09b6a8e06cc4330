"""The clean-up of the files of runs.

A clean-up removes working files, which only a resumed run needs, and published files of archived runs
that nothing needs. It never touches a run that has not ended, or the records of a run: its settings,
input, events, log, report and model card.

The row says first that the files are removed, and then they are deleted. If the process dies in
between, the next clean-up deletes the rest.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from accounts.models import User, audit
from buckets import files
from buckets.bucket import StorageError
from recipes.rundir import RunDir
from runs.disk import usage
from runs.disk.needs import Needs, needs
from runs.models import ENDED, Run, RunQuerySet, State
from runs.supervision import workspace

DAYS = 14
"""The number of days for which the checkpoints of failed and cancelled runs are kept by default."""


@dataclass(frozen=True)
class Policy:
    """The rules of a clean-up.

    days       Working files of failed and cancelled runs are kept for this number of days after the
               end, unless the run is archived.
    published  Whether published files of archived runs are removed, if nothing needs them.
    """

    days: int = DAYS
    published: bool = False


@dataclass(frozen=True)
class Removal:
    """The files of a run that a clean-up removes, in bytes. `kept` says why its published files are kept."""

    run: Run
    working: int = 0
    published: int = 0
    kept: str = ""

    @property
    def total(self) -> int:
        return self.working + self.published


def plan(runs: RunQuerySet, policy: Policy) -> list[Removal]:
    """Return what a clean-up would remove, the largest first, and archived runs whose files are kept.

    Costs three queries, those of the providers of `needs`, and one if sizes have changed.
    """
    ended = list(runs.filter(state__in=ENDED))
    usages, needed = usage.usage_of(ended), needs() if policy.published else {}
    removals = [_removal(run, usages[run.pk], policy, needed) for run in ended]
    chosen = [removal for removal in removals if removal.total or removal.kept]
    return sorted(chosen, key=lambda removal: (-removal.total, -removal.run.pk))


def _removal(run: Run, used: usage.Usage, policy: Policy, needed: Needs) -> Removal:
    working = used.working if may_remove_working_files(run, policy) else 0
    if not policy.published or run.archived_at is None or not used.published:
        return Removal(run, working)
    reason = needed.get(run.pk, "")
    return Removal(run, working, 0 if reason else used.published, reason)


def may_remove_working_files(run: Run, policy: Policy) -> bool:
    """Return whether a run will not need its checkpoints any more, under the policy."""
    if run.state == State.SUCCEEDED or (run.state in ENDED and run.archived_at):
        return True
    if run.state not in ENDED or run.finished_at is None:
        return False
    return run.finished_at <= timezone.now() - timedelta(days=policy.days)


@dataclass(frozen=True)
class Outcome:
    """The files that a clean-up has removed. `skipped` has a sentence for each run that it left alone."""

    runs: int
    bytes: int
    skipped: list[str]


def clean(runs: Sequence[Run], policy: Policy, *, by: User | None) -> Outcome:
    """Remove files of the runs, as `plan` describes. Each run is checked again and has an audit entry."""
    cleaned, removed, skipped = 0, 0, []
    for run in runs:
        try:
            count = _clean(run, policy, by)
        except CannotClean as reason:
            skipped.append(str(reason))
            continue
        cleaned, removed = cleaned + bool(count), removed + count
    return Outcome(cleaned, removed, skipped)


class CannotClean(Exception):  # noqa: N818
    """Raised if a run is left alone. The message says why."""


def _clean(run: Run, policy: Policy, by: User | None) -> int:
    """Remove the files of a run, and return the number of bytes."""
    run_dir = workspace.run_dir_of(run)
    if files.is_remote():  # the run may have been executed on another machine
        run_dir.path.mkdir(parents=True, exist_ok=True)
    with _unused(run, run_dir):
        with transaction.atomic():
            working, published, count = _mark(run, run_dir, policy, by)
        paths = usage.working_paths(run_dir) if working else []
        paths += usage.published_paths(run_dir) if published else []
        doomed = [_set_aside(run_dir, path) for path in paths]
        _drop(run, run_dir, working, published)
    for path in doomed:
        _delete(path)
    remaining = [path for path in doomed if path.exists()]
    if remaining:
        raise CannotClean(
            f"{remaining[0]} cannot be deleted. Check its permissions, and clean up again."
        )
    return count


def _drop(run: Run, run_dir: RunDir, working: bool, published: bool) -> None:
    """Delete the files from the object store. Raises CannotClean if that fails."""

    def is_dropped(path: str) -> bool:
        return (working and usage.is_working(path)) or (published and usage.is_published(path))

    try:
        files.drop(run_dir.path, is_dropped)
    except StorageError as problem:
        raise CannotClean(f"The files of run {run.pk} are not removed: {problem}") from None


def _mark(run: Run, run_dir: RunDir, policy: Policy, by: User | None) -> tuple[bool, bool, int]:
    """Record in the rows which files are removed.

    Return whether the working files are, whether the published files are, and the number of bytes.
    """
    current = Run.objects.select_for_update().get(pk=run.pk)
    if current.state not in ENDED:
        raise CannotClean(f"Run {run.pk} is {current.state}, so its files are kept.")
    used = usage.measure(current)
    working, published, count = False, False, 0
    if may_remove_working_files(current, policy):
        working = bool(used.working or usage.working_paths(run_dir))
        count = used.working
    if policy.published and current.archived_at and used.published:
        reason = needs(lock=True).get(run.pk)
        if reason and not working:
            raise CannotClean(f"The published files of run {run.pk} are kept. {reason}")
        if not reason:
            published, count = True, count + used.published
            Run.objects.filter(pk=run.pk).update(files_removed_at=timezone.now())
    if working or published:
        audit(by, "run files removed", current, id=run.pk, bytes=count)
        usage.forget(current)
    return working, published, count


@contextmanager
def _unused(run: Run, run_dir: RunDir) -> Iterator[None]:
    """Hold the lock of the run directory. Raises CannotClean if an attempt still holds it."""
    try:
        descriptor = os.open(run_dir.path / workspace.LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise CannotClean(
            f"The folder of run {run.pk}, {run_dir.path}, cannot be opened: {error.strerror}."
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotClean(f"A process still uses the folder of run {run.pk}.") from None
        yield
    finally:
        os.close(descriptor)


def _set_aside(run_dir: RunDir, path: Path) -> Path:
    """Rename a file or folder within the run directory, so that a run that is continued ignores it."""
    if path.name.startswith(usage.REMOVED):
        return path
    aside = run_dir.path / f"{usage.REMOVED}{path.parent.name}-{path.name}"
    _delete(aside)
    with suppress(OSError):
        return path.rename(aside)
    return path


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)

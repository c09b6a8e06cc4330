"""Copies of a run directory in the storage, so that another machine can continue or show the run.

The directory is published when it is prepared, after each new checkpoint, and at the end of each attempt.
A run succeeds only after its results are published. Without an object store, nothing of this costs time.
"""

import logging
import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, connection

from buckets import files
from buckets.bucket import StorageError, StorageUnavailable, Superseded
from recipes.rundir import RunDir
from recipes.training import checkpoints
from runs import lifecycle
from runs.kinds import CannotRun
from runs.lifecycle import Lease, LeaseLost
from runs.models import ENDED, Run

logger = logging.getLogger("tiebreak.runs")

MAX_RETRY_SECONDS = 3600
PAUSE_SECONDS = 2.0


def publish(lease: Lease, run_dir: RunDir) -> None:
    """Publish the run directory. Raises LeaseLost if another worker holds the run, and StorageError."""
    try:
        files.publish(run_dir.path, token=lease.token, is_valid=lambda: lifecycle.is_held(lease))
    except Superseded:
        raise LeaseLost from None


def until_available(work: Callable[[], None], stopping: Callable[[float], bool]) -> None:
    """Repeat the work until the storage answers, for at most an hour.

    `stopping` waits for some seconds, and returns whether this process must end. Raises
    StorageUnavailable then, and after an hour. Every object that was stored is kept for the next call.
    """
    until = time.monotonic() + MAX_RETRY_SECONDS
    while True:
        try:
            return work()
        except StorageUnavailable as error:
            logger.warning("%s", error)
            if time.monotonic() > until or stopping(PAUSE_SECONDS):
                raise
        except StorageError as error:
            raise CannotRun(f"{error} Then continue the run.") from None


def fetch(run_dir: RunDir) -> None:
    """Make the local run directory equal to the published one, unless this machine published it last.

    Checkpoints that this machine has written since it published the directory are kept.
    """
    files.fetch(run_dir.path, strict=True)


class CheckpointUploads:
    """Publishes the run directory in a thread after each new checkpoint or finished part.

    A failure only delays the copy: the next checkpoint, or the end of the attempt, publishes again.
    """

    def __init__(self, lease: Lease, run_dir: RunDir):
        self.lease, self.run_dir = lease, run_dir
        self.thread: threading.Thread | None = None
        self.published = self._progress()

    def poll(self) -> None:
        """Start an upload if there is something new and the earlier upload has ended."""
        if not files.is_remote() or (self.thread and self.thread.is_alive()):
            return
        if (progress := self._progress()) != self.published:
            self.published = progress
            self.thread = threading.Thread(target=self._publish, daemon=True)
            self.thread.start()

    def wait(self) -> None:
        if self.thread:
            self.thread.join()

    def _progress(self) -> tuple[str, ...]:
        folders = [self.run_dir, *self.run_dir.parts()] if files.is_remote() else []
        names = [str(path) for folder in folders for path in checkpoints.by_age(folder, "[!.]*")]
        return (*names, *(str(part.path) for part in folders[1:] if part.is_done()))

    def _publish(self) -> None:
        try:
            publish(self.lease, self.run_dir)
        except (StorageError, OSError, DatabaseError) as error:
            logger.warning("Run %s: a checkpoint is not copied: %s", self.lease.run_id, error)
            self.published = ()
        except LeaseLost:
            logger.warning("Run %s: the lease was lost.", self.lease.run_id)
        finally:
            connection.close()


def names_in_use() -> set[str]:
    """Return the bundles that runs in progress read or write, for the clean-up of local copies."""
    from runs.storage import OUTPUT

    names = set()
    for pk, config in Run.objects.exclude(state__in=ENDED).values_list("pk", "config"):
        names.add(f"runs/{pk}")
        for value in config.values():
            if isinstance(value, str) and (output := OUTPUT.fullmatch(value)):
                names.add(f"runs/{output[1]}")
    return names

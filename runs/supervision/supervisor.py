"""Supervise one run from its claim to its end, in a worker's thread or in a command.

The supervisor prepares the run directory and starts the recipe under a watchdog. At every tick it
copies events, renews the lease, and checks whether the run was cancelled, the lease was lost or the
worker is shutting down. It never uses CUDA. If the database becomes unavailable, the recipe continues
to train.
"""

import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from functools import partial
from typing import TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connection
from django.db.models import Max

from buckets.bucket import StorageError, StorageUnavailable
from recipes.machine import faults
from recipes.rundir import RESTART, STOPPED, RunDir, RunDirError
from runs import kinds, lifecycle
from runs.kinds import CannotRun
from runs.lifecycle import Lease, LeaseLost
from runs.models import Run
from runs.supervision import publishing, workspace
from runs.supervision.child import Child, command_for
from runs.supervision.events import EventTail, repair
from runs.supervision.gpus import GpuLease, lease_gpus
from runs.supervision.machine_slots import MachineSlot
from runs.supervision.tracking import TrackingProcess

logger = logging.getLogger("tiebreak.runs")
T = TypeVar("T")

TICK_SECONDS = 0.2
POLL_SECONDS = 1.0
LOG_TAIL_BYTES = 4000
MAX_RETRY_SECONDS = 3600

DATABASE_ERRORS = (OperationalError, InterfaceError, InternalError)
"""Errors that pass when the database is available again. After a failover, a standby that refuses
writes reports an InternalError."""

OUTCOMES = {0: "succeeded", STOPPED: "stopped", RESTART: "stopped"}
"""The outcome that trackers get, by the exit status of the recipe. Others mean "failed"."""

SHUTTING_DOWN = threading.Event()
"""Set when this process is asked to end. Recipes then write a checkpoint, and their runs are requeued."""


class ShuttingDown(Exception):  # noqa: N818
    """Raised if this process is asked to end while a run waits for a GPU."""


class StopReason(Enum):
    """Why a recipe was asked to stop."""

    CANCEL = "cancel"
    SHUTDOWN = "shutdown"


def owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_native_id()}"


def supervise(lease: Lease, slot: MachineSlot | None = None) -> None:
    """Execute a claimed run until it ends or this worker loses it.

    The id of the watchdog is recorded in `slot`. If the database is unavailable before the recipe
    starts, the run returns to the queue.
    """
    run = retry_until_available(lambda: Run.objects.get(pk=lease.run_id))
    logger.info("Run %s (%s): attempt %s begins.", run.pk, run.kind, run.attempt)
    try:
        sentence = _try_attempt(run, lease, slot)
        if sentence:
            _end(run, lambda: lifecycle.fail(lease, sentence))
    except LeaseLost:
        logger.warning("Run %s: the lease was lost to another worker.", run.pk)
    except DATABASE_ERRORS as error:
        forget_connection(error)
        sentence = _database_problem(run, error)
        with suppress(LeaseLost):
            _end(run, lambda: _try_later(run, lease, sentence))
    except StorageUnavailable as error:
        sentence = f"{error} Then continue the run: its results are kept on {socket.gethostname()}."
        with suppress(LeaseLost):
            _end(run, lambda: _try_later(run, lease, sentence))


def _try_later(run: Run, lease: Lease, sentence: str) -> None:
    """Return the run to the queue or, after its last attempt, end it as failed."""
    if run.attempt < settings.RUN_MAX_ATTEMPTS:
        lifecycle.requeue(lease, counted=True)
    else:
        lifecycle.fail(lease, sentence)


def _database_problem(run: Run, error: Exception) -> str:
    detail = str(error).strip().partition("\n")[0]
    return (
        f"The database did not respond while attempt {run.attempt} was prepared ({detail}). Check "
        "that PostgreSQL is running and has free connections, then continue the run."
    )


def _try_attempt(run: Run, lease: Lease, slot: MachineSlot | None) -> str:
    """Make one attempt. Return the error with which the run failed, or "" if there was none."""
    try:
        _run_attempt(run, lease, slot)
    except CannotRun as error:
        return str(error)
    except (LeaseLost, StorageUnavailable, *DATABASE_ERRORS):
        raise
    except Exception as error:
        logger.exception("Run %s", run.pk)
        if sentence := faults.storage_problem(error, workspace.run_dir_of(run).path):
            return sentence
        return f"Supervising the run failed: {type(error).__name__}: {error}"
    return ""


def _run_attempt(run: Run, lease: Lease, slot: MachineSlot | None) -> None:
    kind = kinds.get(run.kind)
    with ExitStack() as stack:
        with heartbeats(lease):
            waiting = partial(_check_cancel, lease)
            lock = stack.enter_context(workspace.lock_run_dir(run, waiting))
            run_dir = _prepared(run, kind, lease, waiting)
        if lifecycle.cancel_requested(lease):
            return _end(run, lambda: lifecycle.cancel(lease))
        process = RecipeProcess(run, lease, run_dir)
        if workspace.is_finished(run_dir):
            run_dir.message("An earlier attempt finished, and its results are used.")
            return _store_results(run, kind, process)
        try:
            with heartbeats(lease):
                gpus = stack.enter_context(lease_gpus(kind, process.wait_for_gpu))
        except ShuttingDown:
            return _end(run, lambda: lifecycle.requeue(lease, counted=False))
        retry_until_available(lambda: lifecycle.record_gpus(lease, gpus.names))
        variables = _run_hook(run, "Preparing", lambda: kind.variables(run, run_dir))
        command = command_for(kind.module, run_dir.path, gpus=len(gpus.names))
        process.start(command, lock, gpus, variables, slot)
    # The child has inherited the locks, so they are held until it ends, although the block above
    # has closed this process's copies.
    status = process.wait()
    if status == 0:
        with suppress(OSError):  # on a full disk: the mark only saves the next attempt some work
            workspace.mark_finished(run_dir)
        return _store_results(run, kind, process)
    process.copy_rest()
    process.publish_rest()
    return _end(run, process.ending(status))


def _prepared(run: Run, kind: kinds.RunKind, lease: Lease, waiting: Callable[[], None]) -> RunDir:
    """Return the run directory, ready for an attempt and published. Waits for the storage."""
    run_dir = workspace.run_dir_of(run)

    def stopping(seconds: float) -> bool:
        waiting()
        return SHUTTING_DOWN.wait(seconds)

    def prepare() -> None:
        publishing.fetch(run_dir)
        _run_hook(run, "Preparing", lambda: workspace.prepare(run, kind))
        publishing.publish(lease, run_dir)

    publishing.until_available(prepare, stopping)
    return run_dir


def _store_results(run: Run, kind: kinds.RunKind, process: "RecipeProcess") -> None:
    """Publish the output of a finished recipe. This waits for the database even if the lease expires.

    If the database is unavailable for longer than the lease, the reaper takes the run away, and this
    worker claims it again. If another worker has claimed it first, that worker finds the finished
    directory and publishes it.
    """
    with suppress(OSError):  # a full disk does not matter any more
        process.run_dir.stage("Checking and storing the results")
    try:
        process.copy_rest()
        _succeed(run, process.lease, process.run_dir, kind, process.tail)
    except LeaseLost:
        regained = retry_until_available(lambda: lifecycle.regain(process.lease, owner()))
        if regained is None:
            raise
        process.lease = regained
        try:
            process.copy_rest()
            _succeed(run, regained, process.run_dir, kind, process.tail)
        except CannotRun as error:
            # The caller has only the lost lease, with which it cannot end the run.
            sentence = str(error)
            _end(run, lambda: lifecycle.fail(regained, sentence))


def _check_cancel(lease: Lease) -> None:
    """Raise CannotRun if cancelling was requested, so that `lifecycle.fail` ends the run as cancelled."""
    try:
        if lifecycle.cancel_requested(lease):
            raise CannotRun("It was cancelled while it was queued.")
    except DATABASE_ERRORS as error:
        forget_connection(error)


def _succeed(run: Run, lease: Lease, run_dir: RunDir, kind: kinds.RunKind, tail: EventTail) -> None:
    with heartbeats(lease):
        artifacts = workspace.artifacts(run, run_dir)
        retry_until_available(
            lambda: publishing.until_available(
                lambda: publishing.publish(lease, run_dir), SHUTTING_DOWN.wait
            )
        )

    def finish(current: Run) -> dict[str, object]:
        try:
            result = _run_hook(run, "Storing the results", lambda: kind.finish(current, run_dir))
        except CannotRun:
            # If the run is continued, the recipe starts again.
            workspace.forget_finished(run_dir)
            raise
        return result or tail.result

    _end(run, lambda: lifecycle.succeed(lease, artifacts=artifacts, finish=finish))


def _end(run: Run, move: Callable[[], None]) -> None:
    retry_until_available(move)
    run.refresh_from_db()
    logger.info("Run %s (%s): %s. %s", run.pk, run.kind, run.state, run.error)


def _run_hook(run: Run, what: str, work: Callable[[], T]) -> T:
    """Call a kind's function. An unexpected error is logged and raised as CannotRun with a sentence."""
    try:
        return work()
    except (CannotRun, LeaseLost, StorageUnavailable, *DATABASE_ERRORS):
        raise
    except StorageError as error:
        raise CannotRun(str(error)) from error
    except RunDirError as error:
        raise CannotRun(f"{error} Start a new run with these settings.") from error
    except Exception as error:
        logger.exception("Run %s: %s failed.", run.pk, what)
        run_dir = workspace.run_dir_of(run)
        with suppress(OSError), workspace.log_of(run_dir).open("a") as log:
            traceback.print_exc(file=log)
        if sentence := faults.storage_problem(error, run_dir.path):
            raise CannotRun(sentence) from error
        detail = str(error).strip().partition("\n")[0]
        raise CannotRun(f"{what} failed: {type(error).__name__}: {detail}") from error


class RecipeProcess:
    """The process of one attempt, from the first line in its log to its exit status."""

    def __init__(self, run: Run, lease: Lease, run_dir: RunDir):
        self.run = run
        self.lease = lease
        self.run_dir = run_dir
        self.log = workspace.log_of(run_dir)
        self.stop_reason: StopReason | None = None
        self.killed = False
        self.waits_for_gpu = False
        copied = run.events.aggregate(last=Max("number"))["last"] or 0
        self.tail = EventTail(run.pk, run_dir, after=copied)
        self.uploads = publishing.CheckpointUploads(lease, run_dir)
        self._beat_at = self._poll_at = 0.0
        self._kill_at = float("inf")

    def wait_for_gpu(self) -> None:
        """Report that the run is waiting for a GPU.

        Raises ShuttingDown, LeaseLost, or CannotRun if the run was cancelled.
        """
        if SHUTTING_DOWN.is_set():
            raise ShuttingDown
        with suppress(*DATABASE_ERRORS):
            lifecycle.heartbeat(self.lease)
        _check_cancel(self.lease)
        if not self.waits_for_gpu:
            self.waits_for_gpu = True
            self.run_dir.stage("Waiting for a free GPU")
            self.copy_rest()

    def start(
        self,
        command: list[str],
        lock: int,
        gpus: GpuLease,
        variables: Mapping[str, str],
        slot: MachineSlot | None,
    ) -> None:
        repair(self.run_dir, copied=self.tail.after)
        workspace.forget_endings(self.run_dir)
        self.copy_events()
        self.tail.error = ""  # an error of an earlier attempt is not one of this attempt
        with heartbeats(self.lease):
            resumed_from = workspace.resume_point(self.run_dir)
        if resumed_from:
            self.run_dir.message(f"Attempt {self.run.attempt} resumed from {resumed_from}.")
        elif self.run.attempt > 1:
            self.run_dir.message(
                f"Attempt {self.run.attempt} starts from the beginning: it has no usable checkpoint."
            )
        self.run_dir.stage("Starting the recipe")
        with self.log.open("a") as log:
            print(f"--- attempt {self.run.attempt} on {socket.gethostname()}", file=log)
        self.log_start = self.log.stat().st_size
        self.child = Child(
            command,
            log=self.log,
            lock=lock,
            gpus=gpus,
            variables=variables,
            fence=workspace.fence_of(self.run_dir, self.lease.token),
        )
        try:
            workspace.note_holder(lock, self.child.watchdog_pid)
            if slot:
                slot.note(self.lease, watchdog_pid=self.child.watchdog_pid)
        except BaseException:
            self.child.kill()
            raise
        self.tracking = TrackingProcess(self.run, self.run_dir)

    def wait(self) -> int:
        """Wait until the recipe ends, and return its exit status. If an error occurs here, kill it."""
        outcome = "stopped"
        try:
            while (status := self.child.ended(TICK_SECONDS)) is None:
                self._tick()
            outcome = OUTCOMES.get(status, "failed")
        except BaseException:
            self.child.kill()
            raise
        finally:
            self.tracking.end(outcome)
            with heartbeats(self.lease):
                self.uploads.wait()
        if status in (0, STOPPED, RESTART):
            return status
        return workspace.recorded_ending(self.run_dir) or status

    def _tick(self) -> None:
        now = time.monotonic()
        try:
            if now >= self._beat_at:
                lifecycle.heartbeat(self.lease)
                self._beat_at = now + settings.RUN_LEASE_SECONDS / 3
            if now >= self._poll_at:
                self._poll_at = now + POLL_SECONDS
                self.copy_events()
                self.uploads.poll()
                if lifecycle.cancel_requested(self.lease):
                    self._stop(StopReason.CANCEL)
        except DATABASE_ERRORS as error:
            forget_connection(error)
        if SHUTTING_DOWN.is_set():
            self._stop(StopReason.SHUTDOWN)
        if now >= self._kill_at:
            self.killed = True
            self._kill_at = float("inf")
            self.child.kill()

    def _stop(self, reason: StopReason) -> None:
        if self.stop_reason is None:
            self._kill_at = time.monotonic() + settings.RUN_GRACE_SECONDS
            self.child.ask_to_stop()
        if self.stop_reason is not StopReason.CANCEL:
            self.stop_reason = reason

    def copy_events(self) -> bool:
        """Copy new events into the database, and return whether there were any.

        If the database does not store them, the next call reads them again.
        """
        offset, number = self.tail.offset, self.tail.number
        events = self.tail.read()
        if not events:
            return self.tail.offset != offset
        try:
            lifecycle.record(self.lease, events, self.tail.progress)
        except (DatabaseError, LeaseLost):
            self.tail.offset, self.tail.number = offset, number
            raise
        return True

    def copy_rest(self) -> None:
        """Copy the remaining events, and wait until the database has stored them. Raises LeaseLost."""
        while retry_until_available(self.copy_events):
            pass

    def publish_rest(self) -> None:
        """Publish the run directory of an attempt that ended early, so that another machine can resume.

        If the storage does not answer, this machine still has the files, and the copy that another
        machine would resume from is older. Raises LeaseLost.
        """
        try:
            with heartbeats(self.lease):
                publishing.publish(self.lease, self.run_dir)
        except (StorageError, OSError, *DATABASE_ERRORS) as error:
            logger.warning("Run %s: its files are not copied: %s", self.run.pk, error)

    def ending(self, status: int) -> Callable[[], None]:
        """Return the state transition for a run whose recipe ended without success."""
        if self.stop_reason is StopReason.CANCEL:
            return lambda: lifecycle.cancel(self.lease)
        if self.stop_reason is StopReason.SHUTDOWN or SHUTTING_DOWN.is_set():
            # `ray job stop` sends SIGTERM to the watchdog too, which may end before this process notices.
            return lambda: lifecycle.requeue(self.lease, counted=False)
        if status == STOPPED and self.run.attempt < settings.RUN_MAX_ATTEMPTS:
            return lambda: lifecycle.requeue(self.lease, counted=True)
        if status == RESTART:
            return lambda: lifecycle.requeue(self.lease, counted=False)
        sentence = self._why(status)
        return lambda: lifecycle.fail(self.lease, sentence)

    def _why(self, status: int) -> str:
        if self.tail.error:
            return self.tail.error
        if sentence := faults.folder_problem(self.run_dir.path):
            return sentence
        last = self._last_line()
        if status == 128 + signal.SIGKILL:
            return (
                "The system killed the recipe (SIGKILL), most often because the machine ran out of "
                "memory. Lower the batch size or the longest sequence, or choose a smaller model."
            )
        if status == STOPPED:
            return f"The recipe was stopped from outside {self.run.attempt} times."
        if status > 128 and status - 128 in signal.valid_signals():
            return f"The recipe crashed with {signal.Signals(status - 128).name}. {last}".strip()
        output = f"Its last output: {last}" if last else "It printed nothing."
        return f"The recipe ended with status {status}. {output}"

    def _last_line(self) -> str:
        text = workspace.log_tail(self.log, LOG_TAIL_BYTES, after=self.log_start)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:1000] if lines else ""


# --- an unavailable database ----------------------------------------------------------------------


def forget_connection(error: Exception) -> None:
    """Close a broken connection, so that the next query opens a new one.

    In a transaction, the error is raised again instead. The pool's idle connections are probably broken
    too, so all of them are checked now. Otherwise psycopg would test them one by one when they are
    requested, with growing pauses, which could take longer than a lease.
    """
    if connection.in_atomic_block:
        raise error
    logger.warning("The database does not answer: %s", str(error).strip())
    connection.close()
    connection.pool.check()  # type: ignore[attr-defined]  # only the PostgreSQL backend has a pool


def retry_until_available(write: Callable[[], T]) -> T:
    """Retry a write until the database is available, for at most an hour and not after shutdown.

    Then the database's error is raised. Nothing is lost, because the results remain in the run
    directory and the next attempt publishes them.
    """
    until = time.monotonic() + MAX_RETRY_SECONDS
    while True:
        try:
            return write()
        except DATABASE_ERRORS as error:
            forget_connection(error)
            if time.monotonic() > until or SHUTTING_DOWN.wait(1):
                raise


@contextmanager
def heartbeats(lease: Lease) -> Iterator[None]:
    """Renew the lease from another thread while the `with` block runs.

    In a transaction of the caller this does nothing, because no other process can see the row yet.
    """
    if connection.in_atomic_block:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_renew_until, args=(lease, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _renew_until(lease: Lease, done: threading.Event) -> None:
    try:
        while not done.wait(settings.RUN_LEASE_SECONDS / 3):
            try:
                lifecycle.heartbeat(lease)
            except DATABASE_ERRORS as error:
                forget_connection(error)
    except LeaseLost:
        logger.warning("Run %s: the lease was lost.", lease.run_id)
    finally:
        connection.close()

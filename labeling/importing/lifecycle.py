"""The life cycle of an uploaded file: received, checked, previewed, imported or cancelled.

The web only receives the file and updates the row. A worker reads the file in a separate process
(labeling.importing.process) with limited memory and processor time, so that no file can harm the worker
or the site. The row is the source of truth; the Celery message only carries its id. If a worker dies,
the row's heartbeat stops, and `reap` gives the row to another worker.
"""

import json
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now
from kombu.exceptions import OperationalError

from accounts.models import User, audit
from buckets import files
from buckets.bucket import StorageError
from labeling.importing.formats.columns.mapping import Mapping
from labeling.models import FileImport, Project

State = FileImport.State
LEASE = timedelta(seconds=30)
HEARTBEAT_SECONDS = 1
MAX_ATTEMPTS = 3
RETENTION = timedelta(days=1)
"""How long a checked file is kept for its import."""

WORKER_STOPPED = (
    "The worker stopped several times while it read this file. Send the file again, or import it "
    "with manage.py import_data."
)


# --- web -----------------------------------------------------------------------------------------


def receive(
    chunks: Iterable[bytes], *, user: User, project: Project, name: str, format: str = "",
    any_criteria: bool = False, encoding: str = "utf-8",
) -> FileImport:  # fmt: skip
    """Write the file to disk and ask a worker to check it. On failure, leave nothing behind."""
    delete_old_files()
    file_import = FileImport(
        project=project,
        user=user,
        name=name[:200],
        format=format,
        any_criteria=any_criteria,
        encoding=encoding,
    )
    path = file_import.path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    try:
        with draft.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file_import.size = file.tell()
        draft.rename(path)
        files.publish(path)
        with transaction.atomic():
            file_import.save()
            _send_after_commit(file_import.pk)
    except BaseException:
        draft.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        files.discard(path)
        raise
    return file_import


def start_import(file_import: FileImport) -> bool:
    """Ask a worker to import a checked file. Return False if the file is not ready."""
    with transaction.atomic():
        rows = FileImport.objects.filter(pk=file_import.pk, state=State.READY).update(
            state=State.IMPORTING,
            attempt=0,
            heartbeat_at=None,
            prompts_read=0,
            cancel_requested=False,  # it may have been set too late to cancel the check
        )
        if rows:
            _send_after_commit(file_import.pk)
    return bool(rows)


def map_columns(file_import: FileImport, mapping: Mapping) -> bool:
    """Ask a worker to check the file again with new meanings of its columns.

    Return False if the meanings can no longer be changed.
    """
    with transaction.atomic():
        rows = FileImport.objects.filter(pk=file_import.pk, state__in=FileImport.OPEN).update(
            state=State.CHECKING,
            mapping=mapping.to_json(),
            report={},
            problem="",
            attempt=0,
            heartbeat_at=None,
            finished_at=None,
            prompts_read=0,
            cancel_requested=False,
        )
        if rows:
            _send_after_commit(file_import.pk)
    return bool(rows)


def start_undo(file_import: FileImport, by: User) -> bool:
    """Ask a worker to undo an import. Return False if there is nothing to undo."""
    with transaction.atomic():
        rows = FileImport.objects.filter(pk=file_import.pk, state=State.IMPORTED).update(
            state=State.UNDOING, problem="", attempt=0, heartbeat_at=None
        )
        if rows:
            audit(by, "undo of import requested", file_import.project, file=file_import.name)
            _send_after_commit(file_import.pk)
    return bool(rows)


def cancel(file_import: FileImport) -> bool:
    """Stop work on a file, or discard a file that is ready. Return False if it is too late for either."""
    if file_import.state == State.UNDOING:
        return False
    waiting = Q(state__in=FileImport.OPEN) | Q(state__in=FileImport.ACTIVE, heartbeat_at=None)
    if _end(FileImport.objects.filter(waiting, pk=file_import.pk), State.CANCELLED):
        file_import.delete_file()
        return True
    return bool(
        FileImport.objects.filter(pk=file_import.pk, state__in=FileImport.ACTIVE).update(
            cancel_requested=True
        )
    )


def delete_old_files() -> None:
    """Delete uploads that were not imported within a day, and partial files left by a crashed server."""
    expired = FileImport.objects.filter(created_at__lt=Now() - RETENTION)
    _end(expired.filter(state__in=(State.READY, State.UNCLEAR)), State.CANCELLED)
    folder = Path(settings.UPLOADS_DIR)
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            if path.name == files.STATE:
                continue
            if time.time() - path.stat().st_mtime > RETENTION.total_seconds():
                path.unlink()
                files.discard(path)
        except FileNotFoundError:  # another process deleted it
            continue


def _send_after_commit(pk: int) -> None:
    transaction.on_commit(lambda: _send(pk))


def _send(pk: int) -> None:
    """Send the row's id to a worker. If the broker is unavailable, `reap` sends it later."""
    with suppress(OperationalError):
        current_app.send_task("labeling.importing.tasks.read_file", args=[pk])


# --- worker --------------------------------------------------------------------------------------


def execute(pk: int) -> None:
    """Claim the file's row, and run its current step in a separate process."""
    token = claim(pk)
    if token is None:
        return
    if problem := _fetch(pk):
        finish(pk, token, problem)
        return
    process = _FileProcess(pk, token)
    try:
        problem = process.wait()
    finally:
        process.kill()
    finish(pk, token, problem, cancelled=process.cancelled)


def _fetch(pk: int) -> str:
    """Copy the file from an object store to this machine. Return the problem, or ""."""
    try:
        files.fetch(FileImport.objects.get(pk=pk).path, strict=True)
    except StorageError as problem:
        return f"The file cannot be read: {problem}"
    return ""


def finish(pk: int, token: int, problem: str, *, cancelled: bool = False) -> None:
    """Set the row's final state if the step has not done so, and delete the file if no longer needed.

    A file with a problem is kept for a day, because it may be readable with other column meanings.
    """
    own_row = FileImport.objects.filter(pk=pk, token=token, state__in=FileImport.ACTIVE)
    if cancelled:
        _restore_imported(own_row)
        _end(own_row, State.CANCELLED)
    elif problem:
        _restore_imported(own_row, problem)
        _end(own_row, State.FAILED, problem=problem)
    file_import = FileImport.objects.filter(pk=pk).first()
    if file_import and file_import.state in (State.IMPORTED, State.CANCELLED):
        file_import.delete_file()


def reap() -> int:
    """Give rows with an expired lease to another worker, and return their number.

    After MAX_ATTEMPTS attempts a row fails instead.
    """
    unleased = FileImport.objects.filter(_unleased(), state__in=FileImport.ACTIVE)
    exhausted = unleased.filter(attempt__gte=MAX_ATTEMPTS)
    _restore_imported(exhausted, WORKER_STOPPED)
    _end(exhausted, State.FAILED, problem=WORKER_STOPPED)
    pks = list(unleased.values_list("pk", flat=True))
    for pk in pks:
        _send_after_commit(pk)
    return len(pks)


def _unleased() -> Q:
    return Q(heartbeat_at=None) | Q(heartbeat_at__lt=Now() - LEASE)


def claim(pk: int) -> int | None:
    """Claim the row. Return the new token, or None if the row cannot be claimed."""
    rows = FileImport.objects.filter(
        _unleased(), pk=pk, state__in=FileImport.ACTIVE, attempt__lt=MAX_ATTEMPTS
    ).update(token=F("token") + 1, attempt=F("attempt") + 1, heartbeat_at=Now())
    return FileImport.objects.values_list("token", flat=True).get(pk=pk) if rows else None


def _end(rows: QuerySet[FileImport], state: str, **fields: Any) -> int:
    return rows.update(state=state, finished_at=Now(), heartbeat_at=None, **fields)


def _restore_imported(rows: QuerySet[FileImport], problem: str = "") -> int:
    """Set imports whose undo failed back to imported, without changing the time they finished."""
    return rows.filter(state=State.UNDOING).update(
        state=State.IMPORTED, heartbeat_at=None, cancel_requested=False, problem=problem
    )


class _FileProcess:
    """The process that reads the file, supervised by this worker.

    The process watches its standard input. If this worker dies, the pipe closes, the process ends, and
    PostgreSQL rolls back its writes.
    """

    def __init__(self, pk: int, token: int):
        self.rows = FileImport.objects.filter(pk=pk, token=token)
        self.cancelled = False
        self.problem = ""
        self.prompts = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "labeling.importing.process", str(pk), str(token)],
            cwd=settings.BASE_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def wait(self) -> str:
        """Store the progress until the process ends. Return the problem, or ""."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            renewed_at = 0.0
            while True:
                if time.monotonic() - renewed_at >= HEARTBEAT_SECONDS:
                    renewed_at = time.monotonic()
                    if not self._renew_lease():
                        return ""
                if selector.select(HEARTBEAT_SECONDS):
                    line = self.process.stdout.readline()
                    if not line:
                        break
                    self._handle_message(line)
        status = self.process.wait()
        return self.problem or (_exit_problem(status) if status else "")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _renew_lease(self) -> bool:
        """Renew the lease and store the progress. Return False if the process must stop."""
        own_row = self.rows.filter(state__in=FileImport.ACTIVE)
        if not own_row.update(heartbeat_at=Now(), prompts_read=self.prompts):
            # If the row still has this token, the process has just finished its step. Otherwise the
            # claim was lost.
            return self.rows.exists()
        self.cancelled = self.rows.filter(cancel_requested=True).exists()
        return not self.cancelled

    def _handle_message(self, line: bytes) -> None:
        message = json.loads(line)
        self.prompts = message.get("prompts", self.prompts)
        self.problem = message.get("problem", self.problem)


def _exit_problem(status: int) -> str:
    if status == -signal.SIGXCPU:
        return (
            f"Reading the file took more than {settings.IMPORT_SECONDS} seconds of processor time. "
            "Split it; TIEBREAK_IMPORT_SECONDS sets the limit."
        )
    return (
        f"Reading the file ended with status {status}. It may need more than "
        f"{settings.IMPORT_MEMORY_MB} MB of memory; TIEBREAK_IMPORT_MEMORY_MB sets the limit."
    )

"""Slots, which limit how many recipes run on a machine at a time, regardless of the number of workers.

A slot is a locked file, so it becomes free when its process dies. A process that is stopped (by
SIGSTOP, or because the machine is suspended) keeps its lock. Once its run's lease has expired, the next
worker kills its recipe and creates a new file with the same name. When the stopped process continues,
it notices that it has lost the lease before it writes anything.
"""

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import settings

from runs import lifecycle
from runs.lifecycle import Lease

MUTEX_SECONDS = 2
NOTE_BYTES = 200


class MachineSlot:
    """A slot of the machine that this process has."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self.note(None)

    def note(self, lease: Lease | None, *, watchdog_pid: int | None = None) -> None:
        """Write the lease and the watchdog to the slot's file, for other processes on this machine."""
        holder = (
            {"run": lease.run_id, "token": lease.token, "watchdog": watchdog_pid} if lease else {}
        )
        # Writing in place needs no new space, so it succeeds on a full disk.
        os.pwrite(self.descriptor, json.dumps(holder).encode().ljust(NOTE_BYTES), 0)


@contextmanager
def acquire() -> Iterator[MachineSlot | None]:
    """Yield one of the machine's slots, or None if all are taken. Costs one query per taken slot.

    Raises OSError if the files of the slots cannot be written.
    """
    folder = settings.VAR_DIR / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    with _mutex(folder) as exclusive:
        slot = _take_any(folder) if exclusive else None
    try:
        yield slot
    finally:
        if slot is not None:
            os.close(slot.descriptor)


def _take_any(folder: Path) -> MachineSlot | None:
    paths = [folder / f"{socket.gethostname()}-{n}.lock" for n in range(settings.RUNS_AT_ONCE)]
    free = next(filter(None, map(_take, paths)), None)
    if free is None and any(_evict(path) for path in paths):
        free = next(filter(None, map(_take, paths)), None)
    return free


def _take(path: Path) -> MachineSlot | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return MachineSlot(descriptor)
    except OSError as error:
        os.close(
            descriptor
        )  # also on a full disk, as this process would otherwise hold the slot forever
        if isinstance(error, BlockingIOError):
            return None
        raise


def _evict(path: Path) -> bool:
    """Kill the recipe of a holder that has lost its lease, and remove its file; return whether it had."""
    holder = _holder(path)
    if "run" not in holder or lifecycle.is_held(Lease(holder["run"], holder["token"])):
        return False
    if _is_watchdog(holder.get("watchdog")):
        with suppress(ProcessLookupError):
            os.kill(holder["watchdog"], signal.SIGTERM)
    path.unlink(missing_ok=True)
    return True


def _holder(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes() or b"{}")
    except (OSError, ValueError):
        return {}


def _is_watchdog(pid: int | None) -> bool:
    """Return whether the process is a watchdog. Ids are reused, so this is checked before killing it."""
    try:
        return (
            pid is not None
            and b"runs.supervision.watchdog" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    except OSError:
        return False


@contextmanager
def _mutex(folder: Path) -> Iterator[bool]:
    """Let only one process at a time examine the slots. Yield False if the wait takes too long."""
    with (folder / f"{socket.gethostname()}.mutex").open("w") as file:
        until = time.monotonic() + MUTEX_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    yield False
                    return
                time.sleep(0.02)
            else:
                break
        yield True

"""How many recipes one machine runs at a time, whatever the number of its workers and threads.

A slot is a locked file, so that a dead holder's is free. A holder that lives but was stopped
(SIGSTOP, a suspended machine) keeps its lock; once the lease of its run is gone, the next worker
ends its recipe and takes a new file of that name. When the holder wakes up, the loss of its lease
stops it before it writes anything.
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


class Slot:
    """A place held by this process."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self.note(None)

    def note(self, lease: Lease | None, *, leash_pid: int | None = None) -> None:
        """Say for others on this machine what it is used for."""
        holder = {"run": lease.run_id, "token": lease.token, "leash": leash_pid} if lease else {}
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(holder).encode(), 0)


@contextmanager
def one() -> Iterator[Slot | None]:
    """Hold one of the machine's slots; None when all are taken. Costs a query for each taken one."""
    folder = settings.VAR_DIR / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    with _mutex(folder) as alone:
        slot = _take_any(folder) if alone else None
    try:
        yield slot
    finally:
        if slot is not None:
            os.close(slot.descriptor)


def _take_any(folder: Path) -> Slot | None:
    paths = [folder / f"{socket.gethostname()}-{n}.lock" for n in range(settings.RUNS_AT_ONCE)]
    free = next(filter(None, map(_take, paths)), None)
    if free is None and any(_evict(path) for path in paths):
        free = next(filter(None, map(_take, paths)), None)
    return free


def _take(path: Path) -> Slot | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Slot(descriptor)


def _evict(path: Path) -> bool:
    """Whether the slot's holder has lost its lease; its recipe is then ended and the file removed."""
    holder = _holder(path)
    if "run" not in holder or lifecycle.is_held(Lease(holder["run"], holder["token"])):
        return False
    if _is_leash(holder.get("leash")):
        with suppress(ProcessLookupError):
            os.kill(holder["leash"], signal.SIGTERM)
    path.unlink(missing_ok=True)
    return True


def _holder(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes() or b"{}")
    except (OSError, ValueError):
        return {}


def _is_leash(pid: int | None) -> bool:
    """Numbers of processes are used again, so look before killing."""
    try:
        return (
            pid is not None
            and b"runs.supervision.leash" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    except OSError:
        return False


@contextmanager
def _mutex(folder: Path) -> Iterator[bool]:
    """Let one process at a time look at the slots; False when it takes too long to get there."""
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

"""The parent process of a recipe. It kills the recipe when the supervisor ends for any reason.

    python -m runs.supervision.watchdog PIPE LOCKS FENCE COMMAND…

PIPE is the read end of a pipe, whose write end only the supervisor has. When a byte arrives, SIGTERM is
sent to the command. When the pipe closes, for example because the supervisor was killed with SIGKILL,
the command and all processes that it started are killed.

LOCKS are the comma-separated descriptors of the locks of the run directory and the GPUs, if any. The command
inherits them, so a lock becomes free when the last process that could write or compute has ended.

FENCE is empty, or TOKEN:FILE. If the file contains a higher number, another attempt has claimed the run
and waits for the lock of its directory, so the command is killed. The supervisor may not know yet: it
may be suspended, or its machine may be cut off from the database but not from the shared folder.

The exit status is that of the command, or 128 plus the number of the signal that ended it.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LINUX = sys.platform == "linux"
KILL_SECONDS = 10
FENCE_SECONDS = 1.0


def prctl(option: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_watchdog() -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def children() -> list[int]:
    """Return the process ids of direct children.

    This process is a subreaper, so descendants whose parent has ended become its children.
    """
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat") if LINUX else ():
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            pids.append(int(stat.parent.name))
    return pids


def kill_everything(command: subprocess.Popen[bytes]) -> None:
    """Kill the command's process group, and then all children, as torchrun gives each rank a session."""
    deadline = time.monotonic() + KILL_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(command.pid, signal.SIGKILL)
    while (remaining := children()) and time.monotonic() < deadline:
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def wake_on(*signals: int) -> int:
    """Return a file descriptor from which the numbers of these signals can be read as they arrive."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in signals:
        signal.signal(number, lambda number, frame: None)
    return reader


def is_taken_over(fence: str) -> bool:
    """Return whether the file of the fence contains a higher number than the fence."""
    token, _, file = fence.partition(":")
    try:
        return bool(fence) and int(Path(file).read_text()) > int(token)
    except (OSError, ValueError):
        return False


def forward_signals(command: subprocess.Popen[bytes], pipe: int, woken: int, fence: str) -> None:
    """Pass SIGTERM on to the command until it has ended or must be killed."""
    flags: Any = os.WEXITED | os.WNOWAIT | os.WNOHANG
    while os.waitid(os.P_PID, command.pid, flags) is None:
        if is_taken_over(fence):
            return
        ready, _, _ = select.select([pipe, woken], [], [], FENCE_SECONDS if fence else None)
        if woken in ready and signal.SIGTERM in os.read(woken, 512):
            return
        if pipe in ready:
            if not os.read(pipe, 512):
                return
            command.send_signal(signal.SIGTERM)


def main(pipe: int, locks: list[int], fence: str, command_line: list[str]) -> int:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken = wake_on(signal.SIGCHLD, signal.SIGTERM)
    command = subprocess.Popen(
        command_line,
        start_new_session=True,
        pass_fds=locks,
        preexec_fn=die_with_watchdog,  # safe: this process has one thread
    )
    forward_signals(command, pipe, woken, fence)
    kill_everything(command)
    status = command.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    locks = [int(lock) for lock in sys.argv[2].split(",") if lock]
    sys.exit(main(int(sys.argv[1]), locks, sys.argv[3], sys.argv[4:]))

"""The priority of a process on the processor.

    python -m serving.priority 10 COMMAND…

This runs the command with a niceness, in the same process.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")


def give_way(niceness: int) -> None:
    """Lower the priority of this process to a niceness, unless it is lower already.

    Linux may divide the processor among sessions first (sched_autogroup). The niceness of a process then
    counts only within its session, so a process that leads a session also lowers that of the session.
    """
    niceness = max(niceness, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    if os.getsid(0) == os.getpid():
        with suppress(OSError):  # this kernel has no such groups
            AUTOGROUP.write_text(str(niceness))


def main(arguments: list[str]) -> None:
    niceness, *command = arguments
    give_way(int(niceness))
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])

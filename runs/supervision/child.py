"""The recipe's process. It can be started, asked to stop, and killed."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path

from django.conf import settings

from recipes.machine.gpus import VISIBLE
from runs.supervision.environment import for_recipe
from runs.supervision.gpus import GpuLease

LAUNCHER = "accelerate.commands.launch"
LAUNCHER_TIMEOUT_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""The variable for the seconds between SIGTERM and SIGKILL. Torch's launcher reads it, which
accelerate's launcher calls."""


def command_for(module: str, run_dir: Path, *, gpus: int) -> list[str]:
    """Return the recipe's command line, which can also be run by hand in the repository's root."""
    if gpus <= 1:
        return [sys.executable, "-m", module, str(run_dir)]
    return [
        sys.executable, "-m", LAUNCHER, "--multi_gpu",
        "--num_processes", str(gpus), "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--main_process_port", "0", "-m", module, str(run_dir),
    ]  # fmt: skip


class Child:
    """A command that runs under a watchdog (runs.supervision.watchdog). Its output is appended to `log`.

    The command sees only the GPUs in its lease, the allowed environment variables and `variables`. It inherits `lock` and the locks of the GPUs, so the
    caller may close its own copies once this object exists. `fence` (workspace.fence_of) ends the command
    when another attempt has taken over its run directory.
    """

    def __init__(
        self,
        command: list[str],
        *,
        log: Path,
        lock: int,
        gpus: GpuLease | None = None,
        variables: Mapping[str, str] | None = None,
        fence: str = "",
    ):
        gpus = gpus or GpuLease()
        locks = [lock, *gpus.locks]
        reader, self._pipe = os.pipe()
        self._open = True
        try:
            with log.open("ab") as output:
                self._watchdog = subprocess.Popen(
                    [
                        sys.executable, "-m", "runs.supervision.watchdog", str(reader),
                        ",".join(map(str, locks)), fence, *command,
                    ],
                    cwd=settings.BASE_DIR,
                    env={**environment(command, gpus.names), **(variables or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=[reader, *locks],
                )  # fmt: skip
        except BaseException:
            self._close_pipe()
            raise
        finally:
            os.close(reader)
        self.watchdog_pid = self._watchdog.pid

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the recipe's own process, which then writes a checkpoint and exits."""
        with suppress(BrokenPipeError):
            os.write(self._pipe, b"T")

    def kill(self) -> int:
        """Kill the recipe and everything it started, wait for it, and return the exit status."""
        self._close_pipe()
        return self._watchdog.wait()

    def ended(self, timeout: float) -> int | None:
        """Return the exit status, or None if the command is still running after `timeout` seconds.

        If a signal ended the command, the status is 128 plus the signal's number.
        """
        try:
            status = self._watchdog.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._close_pipe()
        return status if status >= 0 else 128 - status

    def _close_pipe(self) -> None:
        if self._open:
            self._open = False
            os.close(self._pipe)


def environment(command: list[str], gpus: Sequence[str] = ()) -> dict[str, str]:
    """Return the recipe's environment: the allowed variables, and the GPUs that it may use.

    The launcher for several processes would kill them 30 seconds after SIGTERM. This limit is raised,
    so that only the supervisor kills them.
    """
    variables = for_recipe()
    if gpus:
        variables[VISIBLE] = ",".join(gpus)
    if LAUNCHER in command:
        variables[LAUNCHER_TIMEOUT_VARIABLE] = str(ceil(settings.RUN_GRACE_SECONDS) + 1)
    return {**variables, "PYTHONUNBUFFERED": "1"}

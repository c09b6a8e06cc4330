"""The recipe's process: how it is started, asked to stop and killed."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from math import ceil
from pathlib import Path

from django.conf import settings

from runs.supervision.environment import for_recipe

LAUNCHER = "accelerate.commands.launch"
LAUNCHER_PATIENCE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Seconds from SIGTERM to SIGKILL, for torch's launcher, which accelerate's launcher calls."""


def gpu_count() -> int:
    """Return the number of GPUs that a recipe would see.

    Asks nvidia-smi, since a worker never uses CUDA.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return 0
    try:
        listing = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def command_for(module: str, run_dir: Path, *, multi_gpu: bool) -> list[str]:
    """Return the recipe's command line. It can be repeated by hand from the repository's root."""
    gpus = gpu_count() if multi_gpu else 0
    if gpus <= 1:
        return [sys.executable, "-m", module, str(run_dir)]
    return [
        sys.executable, "-m", LAUNCHER, "--multi_gpu",
        "--num_processes", str(gpus), "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--main_process_port", "0", "-m", module, str(run_dir),
    ]  # fmt: skip


class Child:
    """A command on a leash (see runs.supervision.leash). Its output is appended to `log`.

    The caller may close its copy of `lock` once this object exists.
    """

    def __init__(self, command: list[str], *, log: Path, lock: int):
        reader, self._pipe = os.pipe()
        self._open = True
        with log.open("ab") as output:
            self._leash = subprocess.Popen(
                [sys.executable, "-m", "runs.supervision.leash", str(reader), str(lock), *command],
                cwd=settings.BASE_DIR,
                env=environment(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[reader, lock],
            )
        os.close(reader)
        self.leash_pid = self._leash.pid

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the recipe's own process, which then writes a checkpoint and exits."""
        with suppress(BrokenPipeError):
            os.write(self._pipe, b"T")

    def kill(self) -> int:
        """Kill the recipe and everything it started, wait for it, and return the exit status."""
        self._close_pipe()
        return self._leash.wait()

    def ended(self, timeout: float) -> int | None:
        """Return the exit status, or None if it still runs after `timeout`.

        The status is 128 + number for a signal.
        """
        try:
            status = self._leash.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._close_pipe()
        return status if status >= 0 else 128 - status

    def _close_pipe(self) -> None:
        if self._open:
            self._open = False
            os.close(self._pipe)


def environment(command: list[str]) -> dict[str, str]:
    """Return the recipe's environment: allowed variables, and one GPU for a single process.

    With more visible GPUs, transformers would split each batch over them. The launcher of several
    processes would kill them 30 seconds after SIGTERM; its patience is extended, so that only we
    do.
    """
    variables = for_recipe()
    if LAUNCHER not in command and gpu_count() > 1:
        visible = variables.get("CUDA_VISIBLE_DEVICES", "0")
        variables["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    if LAUNCHER in command:
        variables[LAUNCHER_PATIENCE] = str(ceil(settings.RUN_GRACE_SECONDS) + 1)
    return {**variables, "PYTHONUNBUFFERED": "1"}

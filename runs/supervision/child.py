"""The recipe as a process: how it is started, asked to stop and killed."""

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
"""Read by torch's launcher, which accelerate's calls: seconds from SIGTERM to SIGKILL."""


def gpu_count() -> int:
    """GPUs that a recipe would see. Asks nvidia-smi, since a worker never touches CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return 0
    try:
        listed = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def command_for(module: str, run_dir: Path, *, multi_gpu: bool) -> list[str]:
    """The command line, which a person can repeat by hand from the repository's root."""
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

    The caller's copy of `lock` may be closed once this exists.
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
        """SIGTERM for the recipe's own process; it writes a checkpoint and ends by itself."""
        with suppress(BrokenPipeError):
            os.write(self._pipe, b"T")

    def kill(self) -> int:
        """Kill the recipe and everything it started, and wait; returns the exit status."""
        self._let_go()
        return self._leash.wait()

    def ended(self, timeout: float) -> int | None:
        """The exit status, 128 + number for a signal; None when it still runs after `timeout`."""
        try:
            status = self._leash.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._let_go()
        return status if status >= 0 else 128 - status

    def _let_go(self) -> None:
        if self._open:
            self._open = False
            os.close(self._pipe)


def environment(command: list[str]) -> dict[str, str]:
    """Return the recipe's variables: none but those allowed, and one GPU unless it is for several.

    With more in sight, transformers would split each batch over them behind the recipe's back. The
    launcher of several processes would kill them 30 seconds after SIGTERM; it leaves that to us.
    """
    kept = for_recipe()
    if LAUNCHER not in command and gpu_count() > 1:
        kept["CUDA_VISIBLE_DEVICES"] = kept.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if LAUNCHER in command:
        kept[LAUNCHER_PATIENCE] = str(ceil(settings.RUN_GRACE_SECONDS) + 1)
    return {**kept, "PYTHONUNBUFFERED": "1"}

"""Running modules of reward.training as subprocesses, so that commands do not import torch."""

import json
import subprocess
import sys
import tempfile
from typing import Any

from django.conf import settings
from django.core.management import CommandError

from reward.models import RewardModel
from runs.supervision.child import environment


def run_module(name: str, *arguments: str) -> str:
    """Run a module and return its stdout.

    If the module fails, CommandError is raised with the last line of its output.
    """
    command = [sys.executable, "-m", f"reward.training.{name}", *arguments]
    process = subprocess.run(
        command,
        cwd=settings.BASE_DIR,
        env=environment(command),
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise CommandError(_last_line(process.stderr, process.returncode))
    return process.stdout


def stream_module(name: str, *arguments: str, out: Any) -> Any:
    """Run a module, copy its stdout to `out`, and return the JSON object in its last line on stderr.

    Raises CommandError as `run_module` does. Ctrl-C also ends the process of the module.
    """
    command = [sys.executable, "-m", f"reward.training.{name}", *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env=environment(command),
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        )
        try:
            for line in child.stdout or ():
                out.write(line, ending="")
        finally:
            if sys.exc_info()[0]:
                child.kill()
            status = child.wait()
        errors.seek(0)
        output = errors.read()
    if status:
        raise CommandError(_last_line(output, status))
    return json.loads(output.strip().splitlines()[-1])


def _last_line(output: str, status: int) -> str:
    return (output.strip().splitlines() or [f"It ended with status {status}."])[-1]


def reward_model_numbered(number: int) -> RewardModel:
    """Return the reward model with this number. Raises CommandError."""
    model = RewardModel.objects.filter(pk=number).first()
    if model is None:
        raise CommandError(f"There is no reward model {number}.")
    return model

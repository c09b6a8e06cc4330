"""Running a module of reward.training from a command: torch stays out of the command's process."""

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
    """Return what it printed on stdout. Raises CommandError with its last line when it failed."""
    command = [sys.executable, "-m", f"reward.training.{name}", *arguments]
    ended = subprocess.run(
        command,
        cwd=settings.BASE_DIR,
        env=environment(command),
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        raise CommandError(_last_said(ended.stderr, ended.returncode))
    return ended.stdout


def stream_module(name: str, *arguments: str, out: Any) -> Any:
    """Passes stdout on to `out` line by line; returns the JSON object that ends its stderr.

    Raises CommandError as `run_module` does. The process ends with this one's Ctrl-C.
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
        said = errors.read()
    if status:
        raise CommandError(_last_said(said, status))
    return json.loads(said.strip().splitlines()[-1])


def _last_said(said: str, status: int) -> str:
    return (said.strip().splitlines() or [f"It ended with status {status}."])[-1]


def reward_model_numbered(number: int) -> RewardModel:
    """Raises CommandError."""
    found = RewardModel.objects.filter(pk=number).first()
    if found is None:
        raise CommandError(f"There is no reward model {number}.")
    return found

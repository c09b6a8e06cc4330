"""Running a module of reward.training from a command: torch stays out of the command's process."""

import subprocess
import sys

from django.conf import settings
from django.core.management import CommandError

from reward.models import RewardModel


def run_module(name: str, *arguments: str) -> str:
    """What it printed on stdout. Raises CommandError with the last thing it said when it failed."""
    ended = subprocess.run(
        [sys.executable, "-m", f"reward.training.{name}", *arguments],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"It ended with status {ended.returncode}."]
        raise CommandError(said[-1])
    return ended.stdout


def reward_model_numbered(number: int) -> RewardModel:
    """Raises CommandError."""
    found = RewardModel.objects.filter(pk=number).first()
    if found is None:
        raise CommandError(f"There is no reward model {number}.")
    return found

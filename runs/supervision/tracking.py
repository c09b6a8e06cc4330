"""The program that logs the curves of a run to MLflow and Weights & Biases (recipes/tracking).

It runs next to the recipe and has the keys of these services, which the recipe must not see. It ends by
itself when its pipe is closed, also if the supervisor is killed.
"""

import os
import subprocess
import sys
import threading
from contextlib import suppress

from django.conf import settings

from recipes.rundir import RunDir
from runs import kinds
from runs.models import Run
from runs.supervision.environment import for_recipe

PREFIXES = ("MLFLOW_", "WANDB_")
LOG = "tracking.log"


def is_configured() -> bool:
    return bool(settings.MLFLOW_TRACKING_URI or settings.WANDB_API_KEY or settings.WANDB_OFFLINE)


class TrackingProcess:
    """The program for one attempt, or nothing if no service is configured."""

    def __init__(self, run: Run, run_dir: RunDir):
        self._process: subprocess.Popen[bytes] | None = None
        if not is_configured():
            return
        title = run.title or f"{kinds.get(run.kind).title} #{run.pk}"
        project = run.project.slug if run.project else "runs"
        keys = {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}
        with suppress(OSError), (run_dir.path / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "recipes.tracking", str(run_dir.path),
                    "--title", title, "--project", project,
                ],
                cwd=settings.BASE_DIR,
                env={**for_recipe(), **keys},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def end(self, outcome: str) -> None:
        """Tell the program that the recipe has ended. This does not wait for it."""
        if self._process is None or self._process.stdin is None:
            return
        with suppress(OSError):
            self._process.stdin.write(f"{outcome}\n".encode())
            self._process.stdin.close()
        threading.Thread(target=self._process.wait, daemon=True).start()

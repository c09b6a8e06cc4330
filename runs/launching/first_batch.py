"""The first batch of a run that is not queued yet, computed in a process with limits.

The web must not import torch or a model's tokenizer. The run directory is temporary. It gets the data
from the `prepare` of the run kind, so the process reads what the run would read.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.cache import caches

from runs.kinds import CannotRun, RunKind
from runs.models import Run
from runs.supervision.environment import for_recipe
from runs.supervision.workspace import write_input

SECONDS = 75
"""The wall-clock limit. The process also limits its own processor time and memory."""
KEPT_SECONDS = 3600
MOST_BYTES = 4 << 20
BUSY = "first-batch-busy"

MISSING = (
    "The web server does not have the packages of the extra `train`, so it cannot read the tokenizer. "
    "The run itself is not affected."
)


class NoFirstBatch(Exception):  # noqa: N818
    """Raised if the first batch cannot be shown. The text says why."""


def first_batch_of(kind: RunKind, config: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the output of the kind's program. It is cached for an hour, and for one day at most.

    Only one first batch is computed at a time. Raises NoFirstBatch.
    """
    cache, key = caches["shared"], _key(kind, config, inputs)
    if stored := cache.get(key):
        return stored
    if not cache.add(BUSY, True, SECONDS + 30):
        raise NoFirstBatch("Another first batch is being prepared. Try again in a minute.")
    try:
        batch = _computed(kind, config, inputs)
    finally:
        cache.delete(BUSY)
    cache.set(key, batch, KEPT_SECONDS)
    return batch


def _key(kind: RunKind, config: dict[str, Any], inputs: dict[str, Any]) -> str:
    """Return the key of the cache. Chat templates print the date, so it is part of the key."""
    parts = [kind.name, config, inputs, date.today().isoformat()]
    return f"first-batch-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"


def _computed(kind: RunKind, config: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    run = Run(kind=kind.name, config=config, inputs=inputs)
    settings.RUNS_DIR.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".first-batch-", dir=settings.RUNS_DIR) as folder:
            write_input(run, kind, Path(folder))
            return _output_of(kind.first_batch, Path(folder))
    except CannotRun as error:
        raise NoFirstBatch(str(error)) from None
    except OSError as error:
        raise NoFirstBatch(f"The files of the first batch cannot be written: {error}.") from None


def _output_of(module: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", module, str(folder)]
    environment = {**for_recipe(os.environ), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    try:
        process = subprocess.run(
            command,
            cwd=settings.BASE_DIR,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoFirstBatch(
            f"It was not ready after {SECONDS} seconds. The run can still start."
        ) from None
    if (
        b"No module named 'transformers'" in process.stderr
        or b"No module named 'torch'" in process.stderr
    ):
        raise NoFirstBatch(MISSING)
    if process.returncode:
        raise NoFirstBatch(_why_ended(process.returncode, process.stderr))
    if len(process.stdout) > MOST_BYTES:
        raise NoFirstBatch(f"The program printed more than {MOST_BYTES >> 20} MB.")
    try:
        result = json.loads(process.stdout)
    except ValueError:
        raise NoFirstBatch("The program printed something that is not a batch.") from None
    if problem := result.get("problem"):
        raise NoFirstBatch(problem.replace(str(folder), "the snapshot"))
    return result


def _why_ended(status: int, errors: bytes) -> str:
    """Return the reason why the program failed, with the last line that it printed."""
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "The program needed too much memory or processor time, and was stopped."
    last = errors.decode(errors="replace").strip().rpartition("\n")[2][:500]
    return f"The program ended with status {status}. {last}".strip()

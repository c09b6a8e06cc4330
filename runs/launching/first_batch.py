"""The first batch of a run that is not queued yet, computed by a worker in a process with limits.

Neither the web server nor its machine needs torch or the tokenizer of the model. The launch page asks for
the batch again until it is there. Requests and results are in the shared cache, and a message carries only
the key. The run directory is temporary. It gets the data from the `prepare` of the run kind, so the process
reads what the run would read.
"""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from celery import current_app
from django.conf import settings
from django.core.cache import caches
from kombu.exceptions import OperationalError as BrokerError

from runs import kinds
from runs.kinds import CannotRun, RunKind
from runs.messages import QUEUE
from runs.models import Run
from runs.supervision.environment import for_recipe
from runs.supervision.workspace import write_input

logger = logging.getLogger("tiebreak.runs")

SECONDS = 75
"""The wall-clock limit. The process also limits its own processor time and memory."""
KEPT_SECONDS = 3600
PROBLEM_SECONDS = 60
RESEND_SECONDS = 30
"""Seconds after which a message is sent again if no worker has begun, while the page still asks."""
MOST_BYTES = 4 << 20
READING = {"reading": True}

MISSING = (
    "The worker does not have the packages of the extra `train`, so it cannot read the tokenizer. "
    "Start the run on a machine that has them."
)


class NoFirstBatch(Exception):  # noqa: N818
    """Raised if the first batch cannot be shown. The text says why."""


def first_batch_of(
    kind: RunKind, config: dict[str, Any], inputs: dict[str, Any], *, again: bool = False
) -> dict[str, Any] | None:
    """Return the output of the kind's program, or None while a worker computes it.

    The first call sends the request. With `again`, a request that failed is repeated. The result is kept for
    an hour, and for one day at most. Raises NoFirstBatch.
    """
    cache, key = caches["shared"], key_of(kind, config, inputs)
    stored = cache.get(key)
    if again and stored and "problem" in stored:
        cache.delete(key)
        stored = None
    if stored is None:
        request = {"kind": kind.name, "config": config, "inputs": inputs}
        if cache.add(key, {"request": request}, RESEND_SECONDS):
            _send(key)
        return None
    if problem := stored.get("problem"):
        raise NoFirstBatch(problem)
    return stored.get("batch")


def key_of(kind: RunKind, config: dict[str, Any], inputs: dict[str, Any]) -> str:
    """Return the key of the cache. Chat templates print the date, so it is part of the key."""
    parts = [kind.name, config, inputs, date.today().isoformat()]
    return f"first-batch-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"


def _send(key: str) -> None:
    """Send the key to a worker. Raises NoFirstBatch if the broker does not answer."""
    try:
        current_app.send_task("runs.tasks.read_first_batch", args=[key], queue=QUEUE, retry=False)
    except (BrokerError, OSError) as error:
        caches["shared"].delete(key)
        logger.warning("No first batch: the broker does not answer (%s).", error)
        raise NoFirstBatch("No worker can be reached. Try again in a minute.") from None


def compute(key: str) -> None:
    """Compute a requested batch, and store it or the reason why there is none.

    Does nothing if the request has expired, or if another worker has it.
    """
    cache = caches["shared"]
    request = (cache.get(key) or {}).get("request")
    if request is None or not cache.add(f"{key}-worker", True, SECONDS + 30):
        return
    cache.set(key, READING, SECONDS + 30)
    try:
        kind = kinds.get(request["kind"])
        batch = _computed(kind, request["config"], request["inputs"])
        cache.set(key, {"batch": batch}, KEPT_SECONDS)
    except (NoFirstBatch, CannotRun) as problem:
        cache.set(key, {"problem": str(problem)}, PROBLEM_SECONDS)
    except BaseException:
        cache.set(key, {"problem": "The log of the worker has the reason."}, PROBLEM_SECONDS)
        raise
    finally:
        cache.delete(f"{key}-worker")


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

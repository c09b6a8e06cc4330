"""A recipe without torch that counts, and records outside its run directory what it has done.

The record (`Ledger`) is on another disk than the run directory, so it survives a full disk. It names
each event that was written, and reports a second process that works on the same run at the same time.
The result is a hash chain over all steps, so a resumed run that skips or repeats one gives another
result.
"""

import fcntl
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from recipes.machine.faults import storage_problem
from recipes.rundir import STOPPED, RunDir
from recipes.stopping import StopSignal
from recipes.training import checkpoints

CHECKPOINT_STEPS = 4
OWN_ERROR = "The data of this run is empty; choose other data."


class Ledger:
    """The record of one run, to which each of its processes appends lines."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.add("twice", os.getpid())

    def add(self, what: str, value: object) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, f"{what} {value}\n".encode())
        os.close(descriptor)


def link(digest: str, step: int) -> str:
    return hashlib.sha256(f"{digest}{step}".encode()).hexdigest()


def digest_of(total: int) -> str:
    """Return the result of a run with this number of steps."""
    digest = ""
    for step in range(1, total + 1):
        digest = link(digest, step)
    return digest


def count(run_dir: RunDir, config: dict[str, Any], ledger: Ledger, stop: StopSignal) -> int:
    """Count to the end, to a requested stop, or to the run's own error. Return the exit status."""
    step, digest = 0, ""
    if checkpoint := checkpoints.newest_good(run_dir, "count-*"):
        state = json.loads(checkpoint.read_text())
        step, digest = state["step"], state["digest"]
    while step < config["steps"]:
        step += 1
        digest = link(digest, step)
        time.sleep(config["delay"])
        mark = f"{os.getpid()}-{step}"
        run_dir.emit("progress", step=step, total=config["steps"], loss=1 / step, mark=mark)
        ledger.add("event", mark)
        if step == config["fails_at"]:
            run_dir.message(OWN_ERROR, level="error")
            return 1
        if stop.requested or step % CHECKPOINT_STEPS == 0:
            with checkpoints.sealed(run_dir.checkpoints / f"count-{step}.json") as draft:
                draft.write_text(json.dumps({"step": step, "digest": digest}))
        if stop.requested:
            return STOPPED
    with run_dir.publish() as draft:
        (draft / "count.json").write_text(json.dumps({"digest": digest}))
    ledger.add("published", digest)
    return 0


def main(path: str) -> int:
    stop = StopSignal()
    stop.listen()
    run_dir = RunDir(path)
    config = run_dir.spec()["config"]
    ledger = Ledger(Path(config["ledger"]) / str(run_dir.spec()["run_id"]))
    try:
        return count(run_dir, config, ledger, stop)
    except OSError as error:
        sentence = storage_problem(error, run_dir.path) or f"{type(error).__name__}: {error}"
        print(sentence, file=sys.stderr)
        try:
            run_dir.message(sentence, level="error")
        except OSError:
            ledger.add("unreported", sentence)  # the supervisor must find the cause
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

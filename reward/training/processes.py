"""One run in several processes, one a GPU, as `accelerate launch` starts them.

All read the same steps in the same order, and each forwards its share of a step's parts; gradients
are averaged once a step. The process of rank 0 alone writes events, checkpoints and output.
"""

import os
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist

from runs.rundir import RunDir

FAILED = ".failed-"


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def exchanging() -> bool:
    """Whether there are others, and a way to reach them."""
    return count() > 1 and dist.is_available() and dist.is_initialized()


def wait() -> None:
    """Until all processes have come here."""
    if exchanging():
        dist.barrier()


def any_of(flag: bool) -> bool:
    """Whether it is true in one process at least. All have to ask."""
    if not exchanging():
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    said = torch.tensor(float(flag), device=device)
    dist.all_reduce(said, op=dist.ReduceOp.MAX)
    return bool(said)


def as_first(value: Any) -> Any:
    """What the process of rank 0 has. All have to ask."""
    if not exchanging():
        return value
    said = [value]
    dist.broadcast_object_list(said)
    return said[0]


class Follower(RunDir):
    """The run directory for the other processes, which tell nothing."""

    def emit(self, event: str, **fields: Any) -> None:
        pass


def run_dir_for(path: str) -> RunDir:
    if rank():
        return Follower(path)
    run_dir = RunDir(path)
    for left in run_dir.path.glob(f"{FAILED}*"):
        with suppress(OSError):
            left.unlink()
    return run_dir


def tell_failure(run_dir: RunDir, sentence: str) -> None:
    """The first process to fail says why; the others then fail only because it is gone."""
    if count() > 1:
        # All have one parent, the launcher.
        mark = run_dir.path / f"{FAILED}{os.getppid()}"
        with suppress(FileExistsError):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            RunDir(run_dir.path).message(sentence, level="error")
        return
    run_dir.message(sentence, level="error")

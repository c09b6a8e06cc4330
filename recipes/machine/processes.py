"""Runs in several processes, one per GPU, as `accelerate launch` starts them.

All processes read the same steps in the same order. Each process forwards its share of a step, and
the gradients are averaged once per step. Only the process of rank 0 writes events, checkpoints and
output.
"""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recipes.rundir import ENDED, STOPPED, RunDir

LEAVE_SECONDS = 5
STOP_SECONDS = 15
MICRO_BATCH = ".micro-batch"


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Return the number of this process on its machine, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def use_no_gpu() -> None:
    """Hide all GPUs. Call it before anything uses CUDA."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def use_one_gpu() -> None:
    """Hide all GPUs but the first if this run has one process. Call it before anything uses CUDA.

    Trainer would split each batch over all visible GPUs, and our batches cannot be split.
    """
    if count() == 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


def can_communicate() -> bool:
    """Return whether the run has other processes, and a process group that connects them."""
    return count() > 1 and dist.is_available() and dist.is_initialized()


def wait() -> None:
    """Wait until all processes have called this."""
    if can_communicate():
        dist.barrier()


def any_process(flag: bool) -> bool:
    """Return whether the flag is true in any process. All processes must call this function."""
    if not can_communicate():
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags)


def from_rank_0(value: Any) -> Any:
    """Return the value that the process of rank 0 passed. All processes must call this function."""
    if not can_communicate():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def gather(value: Any) -> list[Any]:
    """Return the values that the processes passed, in the order of their ranks.

    All processes must call this function.
    """
    if not can_communicate():
        return [value]
    values = [None] * count()
    dist.all_gather_object(values, value)
    return values


class Follower(RunDir):
    """The run directory for processes other than that of rank 0. They write no events."""

    def emit(self, event: str, **fields: Any) -> None:
        pass


def run_dir_for(path: str) -> RunDir:
    if rank():
        return Follower(path)
    run_dir = RunDir(path)
    for file in run_dir.path.glob(f"{ENDED}*"):
        if file != ending_file(run_dir, os.getppid()):  # another process may have failed already
            with suppress(OSError):
                file.unlink()
    return run_dir


# --- ending early ---------------------------------------------------------------------------------


def ending_file(run_dir: RunDir, launcher: int) -> Path:
    """Return the file in which the first process that ends early records its exit status.

    The name contains the process id of the launcher, which is the parent of all processes, and the
    time at which it started, because process ids are reused.
    """
    try:
        stat = Path(f"/proc/{launcher}/stat").read_text()
    except OSError:
        return run_dir.path / f"{ENDED}{launcher}"
    started = stat.rpartition(")")[2].split()[19]
    return run_dir.path / f"{ENDED}{launcher}-{started}"


def report_ending(run_dir: RunDir, status: int, sentence: str, level: str) -> None:
    """Report why this process ends early, unless another process has ended before.

    The later processes end only because the first one has ended, so their reasons are not reported.
    """
    if count() == 1:
        run_dir.message(sentence, level=level)
        return
    with suppress(FileExistsError):
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        descriptor = os.open(ending_file(run_dir, os.getppid()), flags, 0o644)
        os.write(descriptor, str(status).encode())
        os.close(descriptor)
        RunDir(run_dir.path).message(sentence, level=level)


def exit_with_first(run_dir: RunDir) -> None:
    """Start a thread that ends this process soon after another process has ended early.

    A process cannot handle signals while it waits for the others in a collective. After a request to
    stop, the first process may need some time to write its checkpoint, so the thread waits longer.
    """
    if count() == 1:
        return
    ending = ending_file(run_dir, os.getppid())

    def watch() -> None:
        while not ending.exists():
            time.sleep(1)
        time.sleep(LEAVE_SECONDS)
        status = int(ending.read_text() or 1)
        if status == STOPPED:
            time.sleep(STOP_SECONDS)
        os._exit(status)

    threading.Thread(target=watch, daemon=True).start()


# --- the micro-batch size for the next start ------------------------------------------------------


def recorded_micro_batch(run_dir: RunDir) -> int | None:
    """Return the micro-batch size recorded after an out-of-memory error, or None."""
    try:
        return int((run_dir.whole.path / MICRO_BATCH).read_text())
    except FileNotFoundError:
        return None


def record_micro_batch(run_dir: RunDir, size: int) -> None:
    """Record a micro-batch size for the next start.

    Several processes may do so simultaneously, because they record the same size.
    """
    draft = run_dir.whole.path / f"{MICRO_BATCH}-{rank()}"
    draft.write_text(str(size))
    draft.rename(run_dir.whole.path / MICRO_BATCH)

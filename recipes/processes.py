"""One run in several processes, one a GPU, as `accelerate launch` starts them.

All read the same steps in the same order, and each forwards its share of a step's parts; gradients
are averaged once a step. The process of rank 0 alone writes events, checkpoints and output.
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


def keep_to_one_gpu() -> None:
    """Of those in sight, for a recipe that is one process. Comes before anything asks for a GPU.

    Trainer would else split each batch over all of them, which ours cannot be.
    """
    if count() == 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


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
    for left in run_dir.path.glob(f"{ENDED}*"):
        if left != mark(run_dir, os.getppid()):  # another process may have failed already
            with suppress(OSError):
                left.unlink()
    return run_dir


# --- how they end ---------------------------------------------------------------------------------


def mark(run_dir: RunDir, launcher: int) -> Path:
    """Where the first of a launch to end early says how; all have one parent, the launcher.

    Named after its start too, as numbers of processes come again.
    """
    try:
        stat = Path(f"/proc/{launcher}/stat").read_text()
    except OSError:
        return run_dir.path / f"{ENDED}{launcher}"
    started = stat.rpartition(")")[2].split()[19]
    return run_dir.path / f"{ENDED}{launcher}-{started}"


def tell_ending(run_dir: RunDir, status: int, sentence: str, level: str) -> None:
    """The first process to end early says why; the others then end only because it is gone."""
    if count() == 1:
        run_dir.message(sentence, level=level)
        return
    with suppress(FileExistsError):
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        descriptor = os.open(mark(run_dir, os.getppid()), flags, 0o644)
        os.write(descriptor, str(status).encode())
        os.close(descriptor)
        RunDir(run_dir.path).message(sentence, level=level)


def leave_with_the_first(run_dir: RunDir) -> None:
    """End this process soon after another did. It may wait for that one in a collective, where no
    signal is heard. After a stop the first process may still be putting its checkpoint away."""
    if count() == 1:
        return
    told = mark(run_dir, os.getppid())

    def watch() -> None:
        while not told.exists():
            time.sleep(1)
        time.sleep(LEAVE_SECONDS)
        status = int(told.read_text() or 1)
        if status == STOPPED:
            time.sleep(STOP_SECONDS)
        os._exit(status)

    threading.Thread(target=watch, daemon=True).start()


# --- what all of them keep in mind ----------------------------------------------------------------


def micro_batch_that_fits(run_dir: RunDir) -> int | None:
    """What several processes have noted after memory ran out, for the next time they are started."""
    try:
        return int((run_dir.whole.path / MICRO_BATCH).read_text())
    except FileNotFoundError:
        return None


def note_micro_batch(run_dir: RunDir, size: int) -> None:
    """All that run out of memory at once note the same."""
    draft = run_dir.whole.path / f"{MICRO_BATCH}-{rank()}"
    draft.write_text(str(size))
    draft.rename(run_dir.whole.path / MICRO_BATCH)

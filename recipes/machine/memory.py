"""The memory of a training process: its peak, and smaller batches if it runs out."""

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import torch

from recipes.errors import RecipeError, RestartRequired
from recipes.machine import processes
from recipes.rundir import RunDir


def peak_memory_mb() -> float:
    """Return the peak memory of this process in MiB: GPU memory if it uses a GPU, otherwise RAM."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if sys.platform == "linux":
        # `ru_maxrss` would include the peak of the process that started this one.
        status = Path("/proc/self/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return round(int(peak.split()[1]) / 2**10, 1)
    unit = 1 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = (
        "out of memory",
        "can't allocate memory",
        "cannot allocate memory",
        "not enough memory",
        "cublas_status_alloc_failed",  # cuBLAS could not allocate its workspace
    )
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def with_smaller_batches(
    attempt: Callable[[int, int], Any], *, batch_size: int, micro_batch_size: int, run_dir: RunDir
) -> Any:
    """Call `attempt(micro_batch_size, accumulation)` until the memory suffices.

    If memory runs out, the micro-batch is halved and the accumulation doubled. So the effective batch
    stays the same, and the result differs only by rounding. Each call starts from the beginning, so
    `attempt` must load its newest checkpoint.

    If the run has several processes and one of them tried again, the others would wait for it in a
    collective. So the process records the smaller size and raises RestartRequired. Raises RecipeError
    if not even a micro-batch of one fits.
    """
    micro_batch = min(micro_batch_size, batch_size)
    if processes.count() > 1:
        micro_batch = min(micro_batch, processes.recorded_micro_batch(run_dir) or micro_batch)
    while batch_size % micro_batch:
        micro_batch -= 1
    while True:
        try:
            return attempt(micro_batch, batch_size // micro_batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # A process forwards at most its share of a step.
        failed_size = min(micro_batch, ceil(batch_size / processes.count()))
        if failed_size == 1:
            raise RecipeError(
                "Out of memory even with one example at a time. Lower the maximum length, turn "
                "on gradient checkpointing, or choose a smaller model."
            )
        smaller = next(n for n in range(failed_size // 2, 0, -1) if batch_size % n == 0)
        continues = f"with {smaller} at a time. Each update still uses {batch_size} examples."
        if processes.count() > 1:
            processes.record_micro_batch(run_dir, smaller)
            raise RestartRequired(
                f"Out of memory with {failed_size} examples at a time in process {processes.rank() + 1} "
                f"of {processes.count()}. When started again, the run continues {continues}"
            )
        run_dir.message(
            f"Out of memory with {failed_size} examples at a time; continuing {continues}",
            level="warning",
        )
        micro_batch = smaller
        free_memory()


def module_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of the weights and buffers of a module."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def stored_bytes(reference: str | Path) -> int:
    """Return the bytes of the weights in a folder, or 0 if it has none, such as a name on a hub."""
    return sum(path.stat().st_size for path in Path(reference).glob("*.safetensors"))


def free_memory() -> None:
    """Return unused memory to the GPU, and with glibc also to the operating system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if _return_unused is not None:
        _return_unused(0)


def _glibc_trim() -> Any:
    """Return malloc_trim of glibc, or None on systems with another C library.

    glibc keeps the memory that was freed below a block in use. After sampling from a model with 135
    million weights, that was 290 MB.
    """
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


_return_unused = _glibc_trim()

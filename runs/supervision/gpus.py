"""Leases of GPUs, so that two runs on a machine do not use the same GPU.

A lease is a locked file in TIEBREAK_VAR for each GPU. The recipe's processes inherit the lock, so a GPU
becomes free when the last of them has ended, even if the supervisor was killed. Other programs do not
use these leases, so GPUs with more free memory are leased first.
"""

import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.conf import settings

from recipes.machine import gpus
from recipes.machine.gpus import Gpu

if TYPE_CHECKING:  # this imports models, but benchmarks set up Django later
    from runs.kinds import RunKind

WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class GpuLease:
    """A run's GPUs, named as in CUDA_VISIBLE_DEVICES, and the file descriptors of their locks.

    Both are empty on a machine without GPUs.
    """

    names: tuple[str, ...] = ()
    locks: tuple[int, ...] = ()


@contextmanager
def lease_gpus(kind: "RunKind", waiting: Callable[[], None]) -> Iterator[GpuLease]:
    """Yield the GPUs for a run of this kind, and close this process's locks of them afterwards.

    Up to `share_of` GPUs are leased. While all GPUs are in use, this waits and calls `waiting` about
    once per second. `waiting` may raise an error to end the wait.
    """
    gpus_by_name = visible_gpus() if kind.uses_gpu else {}
    lease = GpuLease()
    try:
        while gpus_by_name and not (lease := _take(gpus_by_name, kind)).names:
            waiting()
            time.sleep(WAIT_SECONDS)
        yield lease
    finally:
        for descriptor in lease.locks:
            os.close(descriptor)


def visible_gpus() -> dict[str, Gpu | None]:
    """Return the GPUs that this process may use by name, those with the most free memory first.

    A GPU that the driver does not know by this name is None.
    """
    installed = gpus.installed()
    named = {name: gpus.named(name, installed) for name in gpus.visible(installed)}
    free_mb = {name: (gpu.free_mb or 0) if gpu else 0 for name, gpu in named.items()}
    return {name: named[name] for name in sorted(named, key=free_mb.__getitem__, reverse=True)}


def share_of(count: int, kind: "RunKind") -> int:
    """Return how many GPUs a run may lease: one or, if its kind can use several, an equal share of all."""
    return max(1, count // settings.RUNS_AT_ONCE) if kind.multi_gpu else 1


def _take(gpus_by_name: dict[str, Gpu | None], kind: "RunKind") -> GpuLease:
    """Lock as many free GPUs as the run may lease, without waiting for others.

    If runs waited for more GPUs while they hold some, two runs could wait for each other.
    """
    share = share_of(len(gpus_by_name), kind)
    taken: dict[str, int] = {}
    for name, gpu in gpus_by_name.items():
        if len(taken) < share and (descriptor := _lock(gpu.uuid if gpu else name)) is not None:
            taken[name] = descriptor
    return GpuLease(tuple(taken), tuple(taken.values()))


def _lock(gpu: str) -> int | None:
    """Lock the GPU's file and return its descriptor, or None if another run holds the lock."""
    folder = settings.VAR_DIR / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{socket.gethostname()}-gpu-{re.sub(r'[^a-zA-Z0-9.-]', '_', gpu)}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None

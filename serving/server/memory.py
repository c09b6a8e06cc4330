"""The models in the memory of the model server. If room is needed, those unused for longest are removed.

This module does not need torch.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from serving.server.engine import JobError, WaitForModel, log

MB = 2**20
MIN_MEMORY_MB = 500
"""The least memory of a server. torch and other libraries need most of it."""
SHARE_OF_MODELS = 0.75
"""The share of the memory that models may fill. The rest is for the texts in progress."""


def written_at(*files: Path) -> int:
    """Return a number that changes if one of the files is written again, or 0 if none exists."""
    times = [0]
    for file in files:
        with suppress(OSError):
            times.append(file.stat().st_mtime_ns)
    return max(times)


class Model(Protocol):
    @property
    def nbytes(self) -> int:
        """Return the bytes of all weights."""


@dataclass
class LoadedModel:
    """A model in memory, and the number of jobs that use it."""

    model: Any
    users: int = 0


class ModelMemory:
    """The models in memory, by key.

    `megabytes` is the memory of the process, or of the GPU. `free` returns the memory of deleted models
    to the system, and `is_out_of_memory` recognises the errors of a full memory. `limits_process` is
    false if the models are on a GPU.
    """

    def __init__(
        self,
        megabytes: int,
        *,
        free: Callable[[], None],
        is_out_of_memory: Callable[[BaseException], bool],
        limits_process: bool = True,
    ):
        self.megabytes = megabytes
        self.limit = int(megabytes * MB * SHARE_OF_MODELS)
        self.free = free
        self.is_out_of_memory = is_out_of_memory
        self.limits_process = limits_process
        self.models: OrderedDict[Hashable, LoadedModel] = OrderedDict()
        self._ran_out = False
        self._sizes: dict[Hashable, int] = {}

    def acquire(self, key: Hashable, load: Callable[[], Any], *, name: str, size: int) -> Any:
        """Return the model with a key for a job, which must call `release`.

        If it is not in memory, `load` loads it. `size` is an estimate of its bytes, which is replaced
        by the real size once that is known. Raises JobError if the model is too large, and WaitForModel
        if other jobs use the memory that it needs.
        """
        if key not in self.models:
            self._make_room(self._sizes.get(key, size), name)
            started = time.monotonic()
            loaded = LoadedModel(load())
            log(f"{name} is loaded, in {time.monotonic() - started:.1f} seconds.")
            self._sizes[key] = loaded.model.nbytes
            if size < self._sizes[key]:
                self._make_room(self._sizes[key], name)
            self.models[key] = loaded
        self.models.move_to_end(key)
        self.models[key].users += 1
        return self.models[key].model

    def release(self, key: Hashable) -> None:
        self.models[key].users -= 1

    @property
    def nbytes(self) -> int:
        """Return the bytes of all models in memory."""
        return sum(loaded.model.nbytes for loaded in self.models.values())

    def too_large(self) -> bool:
        """Return whether the process ran out of memory or uses more than it may."""
        if self._ran_out or not self.limits_process:
            return self._ran_out
        try:
            return psutil.Process().memory_info().rss > self.megabytes * MB
        except MemoryError:  # reading the figure needs a little memory too
            return True

    def explain(self, error: BaseException) -> JobError | None:
        """Return the error for a lack of memory, or None for other errors. Removes unused models."""
        if not self.is_out_of_memory(error):
            return None
        self._ran_out = True
        while self._remove_oldest():
            pass
        return JobError(
            "ABORTED",
            f"The request needs more memory than the model server's {self.megabytes:,} MB. Send less "
            "text, or a smaller model.",
        )

    def _make_room(self, size: int, name: str) -> None:
        """Remove unused models until `size` bytes fit. Raises JobError and WaitForModel."""
        if size > self.limit:
            raise JobError(
                "FAILED_PRECONDITION",
                f"{name} needs {size / MB:,.1f} MB, and the model server may fill "
                f"{self.limit / MB:,.1f} MB with models. The operator can raise "
                "TIEBREAK_MODEL_SERVER_MEMORY_MB.",
            )
        while self.nbytes + size > self.limit:
            if not self._remove_oldest():
                raise WaitForModel

    def _remove_oldest(self) -> bool:
        """Remove the model that was used longest ago. Return False if all are in use."""
        unused = next((key for key, loaded in self.models.items() if not loaded.users), None)
        if unused is None:
            return False
        del self.models[unused]
        self.free()
        return True

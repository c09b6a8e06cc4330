"""Running a recipe in a process of its own, and measuring each of its stages.

A recipe announces its stages with `RunDir.stage`. The run directory of a rehearsal notes the time and
the peak of the memory between two of them, so that every recipe can be rehearsed without a change.

The process is forked from one that has imported the libraries and has not used them, so its memory at
the start is that of the imports. CUDA must not be initialised before the fork.
"""

import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from recipes.errors import RecipeError
from recipes.machine.memory import is_out_of_memory
from recipes.preflight.forecast import ANSWERING, SAVING, TRAINING, Phase
from recipes.rundir import RunDir, RunDirError
from recipes.settings import ConfigError
from recipes.stopping import StopSignal

CLEAR_PEAK = "5"
"""The text that resets the peak of the resident size, if it is written to /proc/self/clear_refs."""

Recipe = Callable[[RunDir, StopSignal], None]


class DoesNotFit(Exception):  # noqa: N818
    """Raised if a rehearsal runs out of memory."""


class MeteredRunDir(RunDir):
    """A run directory that measures the stages of its run.

    `phases` has a measurement per stage. Memory is in MiB: on a CPU the resident size beyond that at
    the start, on a GPU the memory that torch has reserved. `clock` returns seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic):
        super().__init__(path)
        self.clock = clock
        self.phases: dict[str, Phase] = {}
        self.imported_mb = _resident_mb("VmRSS:")
        self._name = "Starting"
        self._since = clock()
        self._peak_mb = 0.0
        self._logged: float | None = None
        """When the last step was logged."""
        _forget_peak()

    def stage(self, text: str) -> None:
        super().stage(text)
        self.mark(text.rpartition(": ")[2])

    def emit(self, event: str, **fields: Any) -> None:
        super().emit(event, **fields)
        if event == "progress" and self._name == TRAINING:
            self._logged = self.clock()
        elif event == "samples" and self._name == ANSWERING:
            self.mark(TRAINING)  # sample prompts are answered between two steps

    def mark(self, name: str) -> None:
        """End the present stage, and begin the one with this name."""
        now = self.clock()
        peak = self.peak_mb()
        logged, self._logged = self._logged, None
        # Before sample prompts are answered, the time since the last logged step is that of a step.
        if logged is not None and _general(name) != ANSWERING:
            self._add(self._name, logged - self._since, peak)
            self._add(SAVING, now - logged, 0.0)
        else:
            self._add(self._name, now - self._since, peak)
        self._name, self._since = _general(name), self.clock()
        _forget_peak()

    def peak_mb(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return torch.cuda.max_memory_reserved() / 2**20
        return max(0.0, _resident_mb("VmHWM:") - self.imported_mb)

    def _add(self, name: str, seconds: float, peak_mb: float) -> None:
        earlier = self.phases.get(name, Phase(0.0, 0.0))
        self.phases[name] = Phase(
            earlier.seconds + seconds, max(earlier.peak_mb, peak_mb), earlier.times + 1
        )


def _general(name: str) -> str:
    """Return the name of a stage without its numbers: `Scoring 8 prompts` → `Scoring prompts`."""
    return " ".join(word for word in name.split() if not word.isdigit())


def _resident_mb(name: str, process: int | str = "self") -> float:
    """Return a figure of a process's status in MiB, or 0 on systems that have no such file."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**10
    return 0.0


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)


# --- processes ------------------------------------------------------------------------------------


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function that runs in a forked process.

    Raises RecipeError with its message if the function raises one, and DoesNotFit if it runs out of
    memory or is killed.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, *arguments))
    process.start()
    sender.close()
    try:
        kind, result = receiver.recv()
    except EOFError:
        kind, result = "memory", "The rehearsal was killed, probably because memory ran out."
    finally:
        receiver.close()
        process.join()
    if kind == "error":
        raise RecipeError(result)
    if kind == "memory":
        raise DoesNotFit(result)
    return result


def _answer(sender: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    try:
        sender.send(("result", function(*arguments)))
    except (RecipeError, RunDirError, ConfigError) as error:
        text = str(error)
        kind = "memory" if text.startswith("Out of memory") else "error"
        sender.send((kind, text))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        sender.send(("memory" if is_out_of_memory(error) else "error", text))
    sender.close()
    sys.stdout.flush()
    os._exit(0)  # the state of libraries after a fork is not worth an orderly end


def rehearse(
    path: Path, module: str, clock: Callable[[], float] = time.monotonic
) -> tuple[dict[str, Phase], float]:
    """Run the recipe of a module on a run directory, and return its phases and the imports' MiB.

    The module has the recipe as `RECIPE`. Call this in a process of its own.
    """
    recipe: Recipe = importlib.import_module(module).RECIPE
    run_dir = MeteredRunDir(path, clock)
    recipe(run_dir, StopSignal())
    run_dir.mark("")
    # A forked process begins without the pages of shared libraries, which those of a run have. Its parent
    # has read the same libraries from the disk.
    return run_dir.phases, max(run_dir.imported_mb, _resident_mb("VmRSS:", os.getppid()))

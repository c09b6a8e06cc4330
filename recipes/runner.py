"""What every recipe needs around its loop: events, SIGTERM, complete checkpoints, out of memory.

A recipe is a function of (RunDir, StopSignal) handed to `run_recipe`, which turns what happens to
it into the events and the exit status that a supervisor understands. The callbacks are for
`transformers.Trainer` and know nothing about what is trained.
"""

import argparse
import gc
import json
import logging
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from pathlib import Path
from types import FrameType
from typing import Any

# Before anything imports huggingface_hub, which reads it once.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from recipes import checkpoints, faults, processes
from recipes.rundir import AGAIN, STOPPED, RunDir, RunDirError, versions
from recipes.settings import ConfigError, RecipeConfig


class RecipeError(Exception):
    """The run cannot go on; the text is the sentence a user reads."""


class Stopped(Exception):  # noqa: N818
    """The run was asked to stop and has written what it needs to go on."""


class Again(Exception):  # noqa: N818
    """The run goes on when it is started again; the text says how."""


class StopSignal:
    """Remembers that SIGTERM arrived, so that the loop can end at a moment of its own choosing."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def check(self) -> None:
        """Raises Stopped if the run was asked to stop."""
        if self.requested:
            raise Stopped


def run_recipe(recipe: Callable[[RunDir, StopSignal], None], description: str) -> int:
    """Run a recipe on the folder named on the command line; returns the process's exit status."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", help="the run directory: run.json, data/, and what is made")
    run_dir = processes.run_dir_for(parser.parse_args().run_dir)
    stop = StopSignal()
    stop.listen()
    processes.leave_with_the_first(run_dir)
    processes.keep_to_one_gpu()
    quiet_libraries()
    try:
        if run_dir.path.is_dir():
            run_dir.stage("Reading the data")
        recipe(run_dir, stop)
    except Stopped:
        sentence = "Stopped as asked. The same command goes on from the last checkpoint."
        processes.tell_ending(run_dir, STOPPED, sentence, "info")
        return STOPPED
    except Again as error:
        print(error, file=sys.stderr)
        processes.tell_ending(run_dir, AGAIN, str(error), "warning")
        return AGAIN
    except (RecipeError, RunDirError, ConfigError) as error:
        return _failed(run_dir, str(error))
    except Exception as error:
        traceback.print_exc()
        problem = faults.storage_problem(error, run_dir.path)
        discard_drafts(run_dir)
        return _failed(run_dir, problem or f"{type(error).__name__}: {error}")
    return 0


def _failed(run_dir: RunDir, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    with suppress(OSError):  # a missing folder or a full disk takes no event; the supervisor looks
        processes.tell_ending(run_dir, 1, sentence, "error")
    return 1


def discard_drafts(run_dir: RunDir) -> None:
    """Remove the half-written checkpoint, which on a full disk is in the way of everything."""
    if not processes.rank():
        shutil.rmtree(run_dir.checkpoints / TRAINER_FOLDER, ignore_errors=True)


def quiet_libraries() -> None:
    """Events say what happens; progress bars and advice on stderr would only hide an error."""
    import datasets
    import transformers

    warnings.simplefilter("ignore", FutureWarning)  # between TRL and transformers, not ours
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)


def provenance(run_dir: RunDir, config: RecipeConfig, *, started: float) -> dict[str, Any]:
    """The end of a report: what the run was made from. `started` is by the monotonic clock."""
    return {
        "config": config.to_dict(),
        "inputs": run_dir.spec().get("inputs", {}),
        "versions": versions(),
        "seconds": round(time.monotonic() - started, 2),
    }


def peak_memory_mb() -> float:
    """The most this process ever held: of the accelerator where there is one, else of main memory."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    unit = 1 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


# --- out of memory --------------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = (
        "out of memory",
        "can't allocate memory",
        "not enough memory",
        "cublas_status_alloc_failed",  # of cuBLAS's own workspace
    )
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def with_smaller_batches(
    attempt: Callable[[int, int], Any], *, batch_size: int, micro_batch_size: int, run_dir: RunDir
) -> Any:
    """Call `attempt(micro_batch_size, accumulation)`; out of memory halves the first, doubles the second.

    The effective batch, and so the result up to rounding, stays what was asked for. `attempt` is
    called again from the start and has to pick up its own newest checkpoint. Several processes
    cannot do so, as the others wait for the one that failed: they note the smaller number and raise
    Again. Raises RecipeError when not even a micro-batch of one fits.
    """
    micro_batch = min(micro_batch_size, batch_size)
    if processes.count() > 1:
        micro_batch = min(micro_batch, processes.micro_batch_that_fits(run_dir) or micro_batch)
    while batch_size % micro_batch:
        micro_batch -= 1
    while True:
        try:
            return attempt(micro_batch, batch_size // micro_batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # No process ever forwards more than its share of a step.
        present = min(micro_batch, ceil(batch_size / processes.count()))
        if present == 1:
            raise RecipeError(
                "Out of memory even with one example at a time. Lower the maximum length, turn "
                "on gradient checkpointing, or choose a smaller model."
            )
        smaller = next(n for n in range(present // 2, 0, -1) if batch_size % n == 0)
        going_on = (
            f"with {smaller} and {batch_size // smaller} accumulation steps, so each update still "
            f"sees {batch_size}."
        )
        if processes.count() > 1:
            processes.note_micro_batch(run_dir, smaller)
            raise Again(
                f"Out of memory with {present} examples at a time in process {processes.rank() + 1} "
                f"of {processes.count()}. Started again, the run goes on {going_on}"
            )
        run_dir.message(
            f"Out of memory with {present} examples at a time; going on {going_on}", level="warning"
        )
        micro_batch = smaller
        free_memory()


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- checkpoints ----------------------------------------------------------------------------------

TRAINER_FOLDER = ".tmp-trainer"
"""Where Trainer writes, inside checkpoints/. Nothing in it is ever resumed from."""


CHECKPOINTS = f"{PREFIX_CHECKPOINT_DIR}-*"


def newest_checkpoint(run_dir: RunDir) -> Path | None:
    """Return the checkpoint to resume from, the same in every process. Reads all of it.

    Damaged ones are set aside and named in a warning.
    """
    if processes.rank() and processes.exchanging():
        return processes.as_first(None)
    return processes.as_first(checkpoints.newest_good(run_dir, CHECKPOINTS))


def trainer_folder(run_dir: RunDir) -> Path:
    """An empty folder for `TrainingArguments.output_dir`; what a killed process left in it goes."""
    folder = run_dir.checkpoints / TRAINER_FOLDER
    if processes.rank():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


class CompleteCheckpoints(TrainerCallback):
    """Moves each checkpoint out of Trainer's folder once it is whole, and keeps the newest `keep`.

    Trainer writes a checkpoint file by file under its final name, so a kill in between would leave
    one that looks complete; a rename cannot. Its manifest shows damage of a later date.
    """

    def __init__(self, run_dir: RunDir, *, stop: StopSignal, keep: int = 2):
        self.run_dir = run_dir
        self.stop = stop
        self.keep = keep

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if processes.any_of(self.stop.requested) and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        processes.wait()  # each writes the state of its random numbers
        if not state.is_world_process_zero:
            return
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        written = Path(str(args.output_dir)) / name
        checkpoints.put_in_place(written, self.run_dir.checkpoints / name)
        for old in checkpoints.by_age(self.run_dir, CHECKPOINTS)[: -self.keep]:
            shutil.rmtree(old)


# --- what the loop tells --------------------------------------------------------------------------


class ProgressEvents(TrainerCallback):
    """Turns Trainer's logs into progress events.

    `num_tokens` in the logs, or else Trainer's own count of input tokens, gives the tokens/s.
    """

    NOT_METRICS = frozenset({"loss", "epoch", "num_tokens", "num_input_tokens_seen"})
    SUMMARY = "train_runtime"
    """In the one line that Trainer logs at the end, which is no step."""

    def __init__(self, run_dir: RunDir):
        self.run_dir = run_dir
        self.loss = 0.0
        self.tokens = 0.0
        self.since = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.since = time.monotonic()
        self.tokens = float(state.num_input_tokens_seen)
        if state.is_world_process_zero:
            self.run_dir.stage("Training")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or logs is None or self.SUMMARY in logs:
            return
        self.loss = float(logs.get("loss", self.loss))
        metrics = {
            name: float(value)
            for name, value in logs.items()
            if name not in self.NOT_METRICS and isinstance(value, int | float)
        }
        tokens = float(logs.get("num_tokens", state.num_input_tokens_seen))
        self.emit(state, metrics, tokens_per_s=self._rate(tokens))

    def emit(self, state: TrainerState, metrics: dict[str, float], **fields: float) -> None:
        self.run_dir.emit(
            "progress",
            step=state.global_step,
            total=state.max_steps,
            epoch=round(float(state.epoch or 0.0), 4),
            loss=self.loss,
            metrics=metrics,
            memory_mb=peak_memory_mb(),
            **fields,
        )

    def _rate(self, tokens: float) -> float:
        now = time.monotonic()
        seconds, self.since = now - self.since, now
        # TRL counts from the start of the process, Trainer from the start of the run.
        done, self.tokens = max(0.0, tokens - self.tokens), tokens
        return round(done / max(seconds, 1e-6), 1)


class RefuseNonFinite(TrainerCallback):
    """Ends the run before a gradient that is not a number can reach the weights.

    Reads the norm of the gradients once a step: one synchronisation with the accelerator.
    """

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            raise RecipeError(
                f"The gradient was not finite at step {state.global_step + 1}, so training ended "
                "before it could spoil the weights. Lower the learning rate or train in float32."
            )


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

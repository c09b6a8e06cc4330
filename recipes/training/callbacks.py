"""Callbacks for transformers.Trainer: complete checkpoints, progress and finite gradients.

They do not depend on what is trained.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from recipes.errors import RecipeError
from recipes.machine import processes
from recipes.machine.memory import peak_memory_mb
from recipes.rundir import TRAINER_FOLDER, RunDir
from recipes.stopping import StopSignal
from recipes.training import checkpoints

CHECKPOINTS = f"{PREFIX_CHECKPOINT_DIR}-*"


def newest_checkpoint(run_dir: RunDir) -> Path | None:
    """Return the checkpoint from which the run resumes, the same in all processes, or None.

    The whole checkpoint is read and verified. Damaged checkpoints are set aside with a warning.
    """
    if processes.rank() and processes.can_communicate():
        return processes.from_rank_0(None)
    return processes.from_rank_0(checkpoints.newest_good(run_dir, CHECKPOINTS))


def trainer_folder(run_dir: RunDir) -> Path:
    """Return an empty folder for `TrainingArguments.output_dir`.

    Files that a killed process left there are deleted.
    """
    folder = run_dir.checkpoints / TRAINER_FOLDER
    if processes.rank():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


class CompleteCheckpoints(TrainerCallback):
    """A callback that moves each checkpoint out of Trainer's folder after it was written.

    Trainer writes the files of a checkpoint one by one under its final name. If the process were
    killed, an incomplete checkpoint would look complete. After a rename, a checkpoint is complete, and
    its manifest reveals later damage. The newest `keep` checkpoints are kept.
    """

    def __init__(self, run_dir: RunDir, *, stop: StopSignal, keep: int = 2):
        self.run_dir = run_dir
        self.stop = stop
        self.keep = keep

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if processes.any_process(self.stop.requested) and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        processes.wait()  # each process writes the state of its random number generators
        if not state.is_world_process_zero:
            return
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        written = Path(str(args.output_dir)) / name
        checkpoints.put_in_place(written, self.run_dir.checkpoints / name)
        for old in checkpoints.by_age(self.run_dir, CHECKPOINTS)[: -self.keep]:
            shutil.rmtree(old)


class ProgressEvents(TrainerCallback):
    """A callback that writes Trainer's logs as progress events.

    The tokens per second are computed from `num_tokens` in the logs, or from Trainer's own count of
    the input tokens.
    """

    NOT_METRICS = frozenset({"loss", "epoch", "num_tokens", "num_input_tokens_seen"})
    SUMMARY = "train_runtime"
    """A key of the summary that Trainer logs after the last step. The summary is not a step."""

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
            epoch=round(self.epochs_done(state), 4),
            loss=self.loss,
            metrics=metrics,
            memory_mb=peak_memory_mb(),
            **fields,
        )

    def epochs_done(self, state: TrainerState) -> float:
        return float(state.epoch or 0.0)

    def _rate(self, tokens: float) -> float:
        now = time.monotonic()
        seconds, self.since = now - self.since, now
        # TRL counts tokens from the start of the process, Trainer from the start of the run.
        done, self.tokens = max(0.0, tokens - self.tokens), tokens
        return round(done / max(seconds, 1e-6), 1)


class RefuseNonFinite(TrainerCallback):
    """A callback that ends the run before a gradient that is not finite reaches the weights.

    It reads the norm of the gradient once per step and waits for the GPU to compute it. In float16,
    the gradient scaler skips such a step and halves its scale, which by design is too high at the
    start. So there the run ends only after SCALER_STEPS such steps in a row.
    """

    SCALER_STEPS = 24  # the scale begins at 2¹⁶ and is below 2⁻⁷ after these steps

    def __init__(self) -> None:
        self.skipped = 0

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.skipped = 0 if torch.isfinite(norm) else self.skipped + 1
        if self.skipped > (self.SCALER_STEPS if args.fp16 else 0):
            raise RecipeError(
                f"The gradient was not finite at step {state.global_step + 1}, so training ended "
                "before it could damage the weights. Lower the learning rate or train in float32."
            )

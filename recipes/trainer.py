"""transformers.Trainer with our collator and loss, and what every recipe asks of a Trainer.

The rest is Trainer's own: its documented extension points are `training_step`, `compute_loss`, `log`
and callbacks, and no other method is replaced.
"""

import time
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from recipes import processes
from recipes.errors import RecipeError, Stopped
from recipes.layout.collate import Batch, StepCollator, for_model
from recipes.memory import peak_memory_mb
from recipes.models.references import torch_dtype
from recipes.preferences.loss import agreement
from recipes.preferences.objective import Objective
from recipes.report import TrainingFigures
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from recipes.trainer_callbacks import (
    CompleteCheckpoints,
    ProgressEvents,
    RefuseNonFinite,
    newest_checkpoint,
    trainer_folder,
)


class GroupTrainer(Trainer):
    """Steps on the mean of the groups' losses over the whole effective batch.

    Trainer's batch is a whole step, from a `StepCollator`; its parts are forwarded one after the other
    and their gradients added. The mean is taken over the groups of all parts at once, so 8 parts of one
    group and one of eight give the same step, a last incomplete batch included.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, objective: Objective | None = None, **options: Any):
        super().__init__(**options)
        self.objective = objective or Objective()
        self._tokens = torch.zeros((), dtype=torch.long)
        self._said = torch.zeros(2)  # evidence the scores agreed with, and all of it
        self._idle = False
        self._finite = torch.ones((), dtype=torch.bool)

    def get_train_dataloader(self) -> DataLoader:
        """Whole steps in each process: accelerate would give each other steps, and fill up the last."""
        loader = super().get_train_dataloader()
        shard = loader.batch_sampler
        if isinstance(shard, BatchSamplerShard):
            shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
        return loader

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Of several processes each takes every so many parts. Gradients are exchanged once a step,
        with those of the last part; who has none left joins in with one that does not count.

        Raises RecipeError rather than hand what follows from a loss that is not finite to the optimizer.
        """
        parts = inputs["parts"]
        own = parts[processes.rank() :: processes.count()]
        *earlier, last = own or parts[-1:]
        self._idle = not own
        losses = []
        for part in earlier:
            with self.accelerator.no_sync(model):
                losses.append(super().training_step(model, part, num_items_in_batch))
        losses.append(super().training_step(model, last, num_items_in_batch))
        if processes.any_of(not self._finite):  # waits for the device, once a step
            raise RecipeError(
                f"The loss was not finite at step {self.state.global_step + 1}, so training ended "
                "before it could spoil the weights. Lower the learning rate or train in float32."
            )
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Stays on the device: reading a figure there would make the next part wait for this one."""
        outputs = model(**for_model(inputs))
        losses = self.objective.losses(outputs["outputs"], inputs)  # (G,)
        self._finite = self._finite.to(losses.device) & torch.isfinite(losses).all()
        if self._idle:
            return (losses.sum() * 0.0, outputs) if return_outputs else losses.sum() * 0.0
        self._count(inputs, outputs["scores"].detach())
        groups = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / groups * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _count(self, inputs: Batch, scores: torch.Tensor) -> None:
        real = (
            inputs["segment_ids"] >= 0 if "segment_ids" in inputs else inputs["attention_mask"] > 0
        )
        self._tokens = self._tokens.to(scores.device) + real.sum()
        said = torch.stack(agreement(scores, inputs["wins"]))
        self._said = self._said.to(scores.device) + said

    @property
    def tokens_seen(self) -> int:
        """Forwarded by this process, padding not counted. Waits for the device."""
        return int(self._tokens)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # A process that had no part since the last time has its zeros on the CPU, and only
            # several processes exchange: not every device can hold float64.
            device = self.args.device if processes.count() > 1 else torch.device("cpu")
            figures = (*self._said, self._tokens)
            here = torch.stack([figure.to(device).to(torch.float64) for figure in figures])
            agreeing, evidence, tokens = self.accelerator.reduce(here).tolist()
            logs["num_tokens"] = int(tokens)
            if evidence:
                logs["train_agreement"] = agreeing / evidence
            self._said = torch.zeros(2)
        super().log(logs, start_time)


class LogSensibly(TrainerCallback):
    """About a hundred points a run, and one every five seconds where steps are slow."""

    POINTS, SECONDS = 100, 5.0

    def __init__(self) -> None:
        self.last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        every = max(1, state.max_steps // self.POINTS)
        # Logging exchanges figures, so several processes may not each go by its own clock.
        late = processes.count() == 1 and time.monotonic() - self.last > self.SECONDS
        if late or state.global_step % every == 0 or state.global_step in (1, state.max_steps):
            control.should_log = True
            self.last = time.monotonic()


class TrainingClock(TrainerCallback, ExportableState):
    """Seconds spent in the loop, over every process that worked on the run; kept in checkpoints."""

    def __init__(self, earlier: float = 0.0):
        self.earlier = earlier
        self.began: float | None = None

    def resume_from(self, checkpoint: Path) -> None:
        """Read by hand: Trainer would restore its own stop flag along with the callbacks."""
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.earlier = state.stateful_callbacks[type(self).__name__]["args"]["earlier"]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.earlier + (time.monotonic() - self.began if self.began is not None else 0.0)

    def state(self) -> dict[str, Any]:
        return {"args": {"earlier": self.seconds}, "attributes": {}}


class WatchHeldOut(TrainerCallback):
    """Adds a point to the curve after each epoch but the last: accuracy on held-out pairs.

    The last point is the report's own accuracy, which is over all held-out prompts.
    """

    def __init__(self, accuracy: Callable[[], float | None], events: ProgressEvents):
        self.accuracy = accuracy
        self.events = events

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_training_stop or state.global_step >= state.max_steps:
            return  # asked to stop, and the time for that is short; or the report follows
        self.events.run_dir.stage("Scoring held-out prompts")
        value = self.accuracy()
        if value is not None and state.is_world_process_zero:
            self.events.emit(state, {"test_accuracy": value})


# --- what every recipe asks of a Trainer ----------------------------------------------------------


def common_arguments(
    run_dir: RunDir, config: Any, *, rows: int, batch: tuple[int, int], saves: int
) -> dict[str, Any]:
    """The TrainingArguments that follow from settings which all recipes have.

    An epoch shows `rows` rows; `batch` is (rows at once, accumulation steps). Checkpoints are `saves`
    a run unless the settings say otherwise.
    """
    steps = ceil(config.epochs * ceil(rows / config.batch_size))
    half = torch_dtype(config.dtype) == torch.bfloat16
    return {
        "output_dir": str(trainer_folder(run_dir)),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": batch[0],
        "gradient_accumulation_steps": batch[1],
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": round(config.warmup * steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": half,
        # Else bf16 is refused there, and several processes do not find each other.
        "use_cpu": (half or processes.count() > 1) and not torch.cuda.is_available(),
        "seed": config.seed,
        "data_seed": config.seed,
        "save_steps": config.checkpoint_steps or max(1, ceil(steps / saves)),
        "logging_strategy": "no",  # LogSensibly decides
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,
        "average_tokens_across_devices": False,  # each process has the whole step's rows
        "report_to": [],
    }


def common_callbacks(
    run_dir: RunDir, events: ProgressEvents, stop: StopSignal
) -> list[TrainerCallback]:
    return [
        LogSensibly(),
        events,
        RefuseNonFinite(),
        CompleteCheckpoints(run_dir, stop=stop),
        TrainingClock(),
    ]


def first_batch(trainer: Trainer) -> list[Any]:
    """The rows that the run's very first forward pass reads, which a resumed run does not see again."""
    sampler = trainer.get_train_dataloader().batch_sampler
    rows = [trainer.train_dataset[index] for index in next(iter(sampler))]
    if isinstance(trainer.data_collator, StepCollator):
        return [rows[index] for index in trainer.data_collator.cut(rows)[0]]
    return rows


def train_to_the_end(trainer: Trainer, run_dir: RunDir) -> None:
    """Train from the newest good checkpoint, if any. Raises Stopped when the run was stopped."""
    if trainer.args.world_size != processes.count():
        raise RecipeError(
            f"There are {processes.count()} processes, but they do not reach each other. Start the run "
            "with accelerate launch, or in one process."
        )
    if trainer.args.n_gpu > 1:
        raise RecipeError(
            f"{trainer.args.n_gpu} GPUs are in sight of one process, which can use one only. Start the "
            "run with accelerate launch, or with CUDA_VISIBLE_DEVICES=0 for one GPU."
        )
    checkpoint = newest_checkpoint(run_dir)
    if checkpoint:
        run_dir.message(f"Going on from {checkpoint.name}.")
        clock_of(trainer).resume_from(checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.state.max_steps:
        raise Stopped


def clock_of(trainer: Trainer) -> TrainingClock:
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, TrainingClock))


def settled(curve: Sequence[tuple[int, float]]) -> float | None:
    """The mean of the curve's last tenth: a single step, the last of an epoch above all, is a few rows."""
    last = [loss for _, loss in curve[-max(1, len(curve) // 10) :]]
    return sum(last) / len(last) if last else None


def training_figures(trainer: Trainer, max_tokens: int) -> TrainingFigures:
    """What the report says about the training itself, once it has ended."""
    curve = [(row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row]
    return {
        "final_loss": settled(curve),
        "curve": curve,
        "steps": trainer.state.global_step,
        "seconds": round(clock_of(trainer).seconds, 2),
        "max_tokens": max_tokens,
        "trained_weights": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "weights": sum(p.numel() for p in trainer.model.parameters()),
        "micro_batch_size": trainer.args.per_device_train_batch_size,
        "device": str(trainer.args.device),
        "memory_mb": peak_memory_mb(),
    }

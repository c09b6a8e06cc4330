"""A transformers.Trainer for groups, and functions that all recipes share.

It overrides only methods that Trainer documents for this purpose: `training_step`, `compute_loss`,
`log` and the training dataloader. It also uses callbacks.

Legend: G prompts (groups), K responses in the largest group.
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

from recipes.errors import RecipeError, Stopped
from recipes.layout.collate import Batch, StepCollator, for_model
from recipes.machine import processes
from recipes.machine.memory import peak_memory_mb
from recipes.models.references import torch_dtype
from recipes.preferences.loss import agreement
from recipes.preferences.objective import Objective
from recipes.report import TrainingFigures
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from recipes.training.callbacks import (
    CompleteCheckpoints,
    ProgressEvents,
    RefuseNonFinite,
    newest_checkpoint,
    trainer_folder,
)


class GroupTrainer(Trainer):
    """A Trainer whose loss is the mean over all groups of a step.

    One batch of Trainer is one optimizer step. `StepCollator` divides it into parts, which are
    forwarded one after the other. The mean is over the groups of all parts, so 8 parts of one
    group and one part of 8 groups give the same step, even if the last batch is incomplete.
    """

    # compute_loss divides by the number of groups in the whole step, so Trainer must not divide by
    # the number of accumulation steps as well.
    loss_is_scaled_for_ga = True

    def __init__(self, objective: Objective | None = None, **options: Any):
        super().__init__(**options)
        self.objective = objective or Objective()
        self._tokens = torch.zeros((), dtype=torch.long)
        self._agreement = torch.zeros(
            2
        )  # amount of evidence that agrees with the scores, and of all evidence
        self._idle = False  # whether this process repeats a part that another process forwards
        self._finite = torch.ones((), dtype=torch.bool)

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of whole steps, which are the same in each process.

        By default, accelerate gives each process different steps, and pads the last one.
        """
        loader = super().get_train_dataloader()
        shard = loader.batch_sampler
        if isinstance(shard, BatchSamplerShard):
            # Each process reads all steps, as if it were the only one, and forwards its share of the parts.
            shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
        return loader

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Run the forward and backward passes of all parts of a step, and return the loss.

        Each of n processes takes every n-th part. The gradients are exchanged once per step, with the
        last part. All processes must take part in the exchange, so a process without parts repeats
        one with weight 0. If the loss is not finite, RecipeError is raised before the optimizer
        changes the weights.
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
        if processes.any_process(not self._finite):  # waits for the device, once per step
            raise RecipeError(
                f"The loss was not finite at step {self.state.global_step + 1}, so training ended "
                "before it could damage the weights. Lower the learning rate or train in float32."
            )
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss of one part.

        Nothing is copied from the device here, because the next part would have to wait for the copy.
        """
        outputs = model(**for_model(inputs))
        losses, scores = self.losses(outputs, inputs)  # (G,), (G, K)
        self._finite = self._finite.to(losses.device) & torch.isfinite(losses).all()
        if self._idle:
            return (losses.sum() * 0.0, outputs) if return_outputs else losses.sum() * 0.0
        self._count(inputs, scores.detach())
        # Trainer passes the number of groups in the whole step, not in this part. DDP averages the
        # gradients over processes, so the factor turns that mean back into a sum.
        groups = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / groups * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def losses(
        self, outputs: dict[str, torch.Tensor], batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each group, (G,), and the scores of its responses, (G, K)."""
        return self.objective.losses(outputs["outputs"], batch), outputs["scores"]

    def try_largest_part(self) -> None:
        """Run a forward and backward pass of the largest part of all steps, and discard the gradients.

        A run that does not fit into memory then fails before its first step and not at a later one.
        Call this before `train`. It takes the time of one part of a step.
        """
        steps, groups = self.data_collator, self.train_dataset
        sizes = [steps.collator.tokens(group) for group in groups]
        largest = sorted(range(len(groups)), key=lambda index: -sizes[index])
        step = [groups[index] for index in largest[: self.args.train_batch_size]]
        part = self._prepare_inputs(steps.collator([step[index] for index in steps.cut(step)[0]]))
        self.model.train()
        with self.compute_loss_context_manager():
            losses, _ = self.losses(self.model(**for_model(part)), part)
        losses.mean().backward()
        self.model.zero_grad(set_to_none=True)

    def _count(self, inputs: Batch, scores: torch.Tensor) -> None:
        real = (
            inputs["segment_ids"] >= 0 if "segment_ids" in inputs else inputs["attention_mask"] > 0
        )
        self._tokens = self._tokens.to(scores.device) + real.sum()
        figures = torch.stack(agreement(scores, inputs["wins"]))
        self._agreement = self._agreement.to(scores.device) + figures

    @property
    def tokens_seen(self) -> int:
        """Return the number of tokens that this process has forwarded, without padding.

        This waits for the device.
        """
        return int(self._tokens)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # All figures must be on one device. Those of a process that has forwarded no part since the
            # last log are still the initial zeros on the CPU. A single process adds them up on the CPU,
            # because some devices do not support float64.
            device = self.args.device if processes.count() > 1 else torch.device("cpu")
            figures = (*self._agreement, self._tokens)
            local = torch.stack([figure.to(device).to(torch.float64) for figure in figures])
            agreeing, evidence, tokens = self.accelerator.reduce(local).tolist()
            logs["num_tokens"] = int(tokens)
            if evidence:
                logs["train_agreement"] = agreeing / evidence
            self._agreement = torch.zeros(2)
        super().log(logs, start_time)


class LogSchedule(TrainerCallback):
    """A callback that logs about a hundred times per run, and at least every five seconds."""

    POINTS, SECONDS = 100, 5.0

    def __init__(self) -> None:
        self.last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        every = max(1, state.max_steps // self.POINTS)
        # Logging is a collective, so all processes must log at the same steps.
        late = processes.count() == 1 and time.monotonic() - self.last > self.SECONDS
        if late or state.global_step % every == 0 or state.global_step in (1, state.max_steps):
            control.should_log = True
            self.last = time.monotonic()


class TrainingClock(TrainerCallback, ExportableState):
    """A callback that measures the seconds in the training loop.

    Checkpoints contain them, so that a resumed run adds to the time of the earlier processes.
    """

    def __init__(self, earlier: float = 0.0):
        self.earlier = earlier
        self.began: float | None = None

    def resume_from(self, checkpoint: Path) -> None:
        """Read the seconds of earlier processes from a checkpoint.

        Trainer could restore them, but it would also restore the flag that stopped the training.
        """
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
    """A callback that computes figures of held-out prompts during training, as points of a curve.

    `figures(last)` returns the figures by name, or {} if there are none. They are computed after each
    epoch but the last, because the report contains those at the end. If `times` is given, they are
    computed this many times instead, at even intervals, the last time after the last step.
    """

    def __init__(
        self,
        figures: Callable[[bool], dict[str, float]],
        events: ProgressEvents,
        times: int | None = None,
    ):
        self.figures = figures
        self.events = events
        self.times = times

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.times:
            total = state.max_steps
            if state.global_step in {
                ceil(total * n / self.times) for n in range(1, self.times + 1)
            }:
                self._watch(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.times is not None or control.should_training_stop:
            return  # a stop must be quick
        if state.global_step < state.max_steps:
            self._watch(state, control)

    def _watch(self, state: TrainerState, control: TrainerControl) -> None:
        if state.is_world_process_zero:
            self.events.run_dir.stage("Scoring held-out prompts")
        try:
            values = self.figures(state.global_step == state.max_steps)
        except Stopped:
            control.should_save = control.should_training_stop = True
            return
        if values and state.is_world_process_zero:
            self.events.emit(state, values)


# --- shared by all recipes ------------------------------------------------------------------------


def common_arguments(
    run_dir: RunDir,
    config: Any,
    *,
    rows: int,
    batch: tuple[int, int],
    saves: int,
    steps: int | None = None,
) -> dict[str, Any]:
    """Return the TrainingArguments for the settings that all recipes share.

    An epoch has `rows` rows, and `batch` is (micro-batch size, accumulation steps). A run writes
    about `saves` checkpoints, unless the settings give an interval. `steps` replaces the number of
    steps that is computed from `rows` and the number of epochs.
    """
    limit = {} if steps is None else {"max_steps": steps}
    steps = steps or ceil(config.epochs * ceil(rows / config.batch_size))
    dtype = torch_dtype(config.dtype)
    half = dtype == torch.bfloat16
    return {
        "output_dir": str(trainer_folder(run_dir)),
        "num_train_epochs": config.epochs,
        **limit,
        "per_device_train_batch_size": batch[0],
        "gradient_accumulation_steps": batch[1],
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": round(config.warmup * steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": half,
        "fp16": dtype == torch.float16,  # with a gradient scaler
        # Without it, Trainer refuses bf16 on the CPU, and several processes cannot connect.
        "use_cpu": (half or processes.count() > 1) and not torch.cuda.is_available(),
        "seed": config.seed,
        "data_seed": config.seed,
        "save_steps": config.checkpoint_steps or max(1, ceil(steps / saves)),
        "logging_strategy": "no",  # see LogSchedule
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
        LogSchedule(),
        events,
        RefuseNonFinite(),
        CompleteCheckpoints(run_dir, stop=stop),
        TrainingClock(),
    ]


def first_batch(trainer: Trainer) -> list[Any]:
    """Return the rows of the first forward pass of the run. They are read only if it is not resumed."""
    sampler = trainer.get_train_dataloader().batch_sampler
    rows = [trainer.train_dataset[index] for index in next(iter(sampler))]
    if isinstance(trainer.data_collator, StepCollator):
        return [rows[index] for index in trainer.data_collator.cut(rows)[0]]
    return rows


def train_to_the_end(trainer: Trainer, run_dir: RunDir) -> None:
    """Train, from the newest good checkpoint if there is one. Raises Stopped if the run was stopped."""
    if trainer.args.world_size != processes.count():
        raise RecipeError(
            f"There are {processes.count()} processes, but they are not connected. Start the run "
            "with accelerate launch, or in one process."
        )
    if trainer.args.n_gpu > 1:
        raise RecipeError(
            f"{trainer.args.n_gpu} GPUs are visible to one process, which can use only one. Start the "
            "run with accelerate launch, or with CUDA_VISIBLE_DEVICES=0 for one GPU."
        )
    checkpoint = newest_checkpoint(run_dir)
    if checkpoint:
        run_dir.message(f"Resuming from {checkpoint.name}.")
        clock_of(trainer).resume_from(checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.state.max_steps:
        raise Stopped


def clock_of(trainer: Trainer) -> TrainingClock:
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, TrainingClock))


def final_loss(curve: Sequence[tuple[int, float]]) -> float | None:
    """Return the mean loss over the last tenth of the curve. One step has too few rows."""
    last = [loss for _, loss in curve[-max(1, len(curve) // 10) :]]
    return sum(last) / len(last) if last else None


def training_figures(trainer: Trainer, max_tokens: int) -> TrainingFigures:
    """Return the section of the report about the training."""
    curve = [(row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row]
    return {
        "final_loss": final_loss(curve),
        "curve": curve,
        "steps": trainer.state.global_step,
        "seconds": round(clock_of(trainer).seconds, 2),
        "max_tokens": max_tokens,
        "trained_weights": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "weights": sum(p.numel() for p in trainer.model.parameters()),
        "micro_batch_size": getattr(
            trainer.data_collator, "most", trainer.args.per_device_train_batch_size
        ),
        "device": str(trainer.args.device),
        "memory_mb": peak_memory_mb(),
    }

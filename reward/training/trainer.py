"""transformers.Trainer with our collator and loss. Everything else is Trainer's own: its documented
extension points are `compute_loss`, `log` and callbacks, and no other method is replaced."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from reward.training.layout import Batch
from reward.training.loss import agreement, bradley_terry
from reward.training.trainer_events import ProgressEvents, RecipeError


class RewardTrainer(Trainer):
    """Steps on the mean of the groups' losses over the whole effective batch.

    That mean is taken over the groups of all micro-batches at once, so 8 micro-batches of one group
    and one of eight give the same step, a last incomplete batch included.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.tokens_seen = 0
        self._agreeing = self._evidence = 0.0

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Raises RecipeError rather than hand a loss that is not finite to the optimizer."""
        wins = inputs["wins"]  # (G, K, K)
        asked = {name: value for name, value in inputs.items() if name not in ("wins", "labels")}
        outputs = model(**asked)
        losses = bradley_terry(outputs["scores"], wins)  # (G,)
        if not torch.isfinite(losses).all():
            raise RecipeError(
                f"The loss was not finite at step {self.state.global_step + 1}, so training ended "
                "before it could spoil the weights. Lower the learning rate or train in float32."
            )
        self._count(inputs, outputs["scores"].detach(), wins)
        groups = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / groups * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _count(self, inputs: Batch, scores: torch.Tensor, wins: torch.Tensor) -> None:
        real = (
            inputs["segment_ids"] >= 0 if "segment_ids" in inputs else inputs["attention_mask"] > 0
        )
        self.tokens_seen += int(real.sum())
        agreeing, evidence = agreement(scores, wins)
        self._agreeing += float(agreeing)
        self._evidence += float(evidence)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._evidence:
            logs["train_agreement"] = self._agreeing / self._evidence
            logs["num_tokens"] = self.tokens_seen
            self._agreeing = self._evidence = 0.0
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
        late = time.monotonic() - self.last > self.SECONDS
        if late or state.global_step % every == 0 or state.global_step in (1, state.max_steps):
            control.should_log = True
            self.last = time.monotonic()


class TrainingClock(TrainerCallback, ExportableState):
    """Seconds spent in the loop, over every process that worked on the run; kept in checkpoints."""

    def __init__(self, earlier: float = 0.0):
        self.earlier = earlier
        self.began: float | None = None

    @classmethod
    def after(cls, checkpoint: Path | None) -> Self:
        """Read by hand: Trainer would restore its own stop flag along with the callbacks."""
        if checkpoint is None:
            return cls()
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
        return cls(**state["stateful_callbacks"][cls.__name__]["args"])

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
    """After each epoch, one more point for the curve: accuracy on held-out pairs."""

    def __init__(self, accuracy: Callable[[], float | None], events: ProgressEvents):
        self.accuracy = accuracy
        self.events = events

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        value = self.accuracy()
        if value is not None and state.is_world_process_zero:
            self.events.emit(state, {"test_accuracy": value})

"""The training of a policy by a method on prepared groups, in one run directory.

`train.py` calls `fit` between reading the data and writing the report. Methods with a program of
their own call it too, for example once per round.

Legend: K responses of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from finetune.methods.method import Loss, Method
from finetune.settings import FinetuneSettings
from finetune.training.fitting.held_out import HeldOut
from finetune.training.fitting.reference import reference_logps
from finetune.training.models.policy import PolicyModel, check_head
from recipes.layout.choice import choose_layout
from recipes.layout.collate import (
    Batch,
    Collator,
    StepCollator,
    describe,
    for_model,
    step_collator,
)
from recipes.layout.compiling import compile_layers
from recipes.layout.forward import default_tokens_at_once
from recipes.machine import processes
from recipes.machine.memory import with_smaller_batches
from recipes.models.adapter import restore, trained_weights
from recipes.preferences.tokens import Prepared, TokenGroup
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from recipes.training.callbacks import ProgressEvents
from recipes.training.trainer import (
    GroupTrainer,
    WatchHeldOut,
    common_arguments,
    common_callbacks,
    first_batch,
    train_to_the_end,
)


class PolicyTrainer(GroupTrainer):
    """A GroupTrainer with the loss of a fine-tuning method."""

    def __init__(self, loss: Loss, policy: PolicyModel, **options: Any):
        super().__init__(model=policy, **options)
        self.loss = loss
        self.policy = policy
        self.drift: torch.Tensor | None = None
        """The last estimate of KL(π ‖ π_ref) from mismatched responses, or None without them."""

    def losses(
        self, outputs: dict[str, torch.Tensor], batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses of the groups, (G,), and the scores, (G, K).

        If `StepCollator` gave the part a `share`, the mean of the losses over the step's groups is
        the mean over all its items, such as tokens.
        """
        losses, scores = self.loss(outputs, batch)
        losses = losses.float()  # from float64 log-probabilities
        return (losses * batch["share"] if "share" in batch else losses), scores

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Run a step. If it has mismatched responses, all parts get their drift first."""
        if "mismatched" in inputs:
            self.drift = self.drift_on(inputs["mismatched"])
            inputs["parts"] = [{**part, "drift": self.drift} for part in inputs["parts"]]
        return super().training_step(model, inputs, num_items_in_batch)

    @torch.no_grad()
    def drift_on(self, parts: Sequence[Batch]) -> torch.Tensor:
        """Return the mean of log π - log π_ref over the responses of all parts, ().

        Several processes share the work.
        """
        total = torch.zeros(2, dtype=torch.float32, device=self.args.device)
        for part in parts[processes.rank() :: processes.count()]:
            batch = self._prepare_inputs(part)
            with self.compute_loss_context_manager():
                logps = self.policy(**for_model(batch))["logps"]  # (G, K)
            change = (logps - batch["reference"]) * batch["present"]
            total += torch.stack([change.sum(), batch["present"].sum()])
        change, count = self.accelerator.reduce(total)
        return change / count.clamp(min=1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.drift is not None:
            logs["drift"] = float(self.drift)
        super().log(logs, start_time)


@dataclass
class Fitted:
    """A trained policy, and the figures of its training for the report."""

    trainer: Trainer
    held_out: HeldOut
    collator: Collator
    layout_reason: str | None
    head_reason: str | None
    reference_computed: int
    first: str
    """The first batch as text, in the form in which the model read it."""


@dataclass
class _Ready:
    """The results of the preparation, which is not repeated if memory runs out."""

    layout_reason: str | None
    head_reason: str | None
    reference_computed: int
    train: list[TokenGroup]
    test_reference: list[np.ndarray]
    first: str


def fit(
    run_dir: RunDir,
    config: FinetuneSettings,
    method: Method,
    policy: PolicyModel,
    tokenizer: Any,
    prepared: Prepared,
    stop: StopSignal,
    reference: dict[str, torch.Tensor] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Fitted:
    """Train the policy on the train split. Raises Stopped, RecipeError or RestartRequired.

    The `callbacks` are added to those of every training.     `reference` has the trained weights of the reference, as `trained_weights` returns them. Without
    it, the policy before training is the reference. If memory runs out, the micro-batch is halved, and
    the model and the log-probabilities of the reference are used again.
    """
    fitting = _Fitting(
        run_dir, config, method, policy, tokenizer, prepared, stop, reference, callbacks
    )
    return with_smaller_batches(
        fitting.attempt,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        run_dir=run_dir,
    )


@dataclass(eq=False)
class _Fitting:
    """The training of a policy in one or more attempts, which share what the first one prepares."""

    run_dir: RunDir
    config: FinetuneSettings
    method: Method
    policy: PolicyModel
    tokenizer: Any
    prepared: Prepared
    stop: StopSignal
    reference: dict[str, torch.Tensor] | None
    callbacks: Sequence[TrainerCallback] = ()
    ready: _Ready | None = None

    def __post_init__(self) -> None:
        self.untrained = trained_weights(self.policy)
        self.collator = Collator(self.tokenizer.pad_token_id, targets=True)
        self.loss = self.method.loss(self.prepared.groups["train"])

    def attempt(self, micro_batch_size: int, _accumulation: int) -> Fitted:
        """Train with this micro-batch. A batch is a whole step, which the collator divides into parts."""
        set_seed(self.config.seed)
        restore(self.policy, self.untrained)
        steps = step_collator(with_token_limit(self.config), self.collator, micro_batch_size)
        train = self.ready.train if self.ready else self.prepared.tokens["train"]
        trainer = make_trainer(
            self.run_dir, self.config, self.policy, self.loss, train, steps, self.stop
        )
        ready = self.ready = self.ready or self._get_ready(trainer)
        trainer.train_dataset = ready.train
        held_out = HeldOut(
            self.policy, self.method, self.prepared, ready.test_reference, self.collator, self.stop
        )
        events = ProgressEvents(self.run_dir)
        trainer.add_callback(WatchHeldOut(held_out.watch, events, self.config.evaluations))
        for callback in self.callbacks:
            trainer.add_callback(callback)
        self.run_dir.stage("Trying the largest batch")
        trainer.try_largest_part()
        train_to_the_end(trainer, self.run_dir)
        return Fitted(
            trainer,
            held_out,
            self.collator,
            ready.layout_reason,
            ready.head_reason,
            ready.reference_computed,
            ready.first,
        )

    def _get_ready(self, trainer: PolicyTrainer) -> _Ready:
        """Choose the head and the layout by the first batch, and compute the reference."""
        first = first_batch(trainer)
        self.run_dir.stage("Checking the first batch")
        head_reason = self._choose_head(first)
        layout_reason = choose_layout(
            self.run_dir, self.config, self.policy, self.collator, first, self.prepared
        )
        if self.config.compile:
            compile_layers(self.policy.inner)
        train, test = self.prepared.tokens["train"], self.prepared.tokens["test"]
        others = [group.mismatched for group in train if group.mismatched]
        trains_on_reference = self.method.trains_on_reference
        groups = [*(train if trains_on_reference else []), *others, *test]
        with trainer.compute_loss_context_manager():
            logps, computed = self._reference_logps(groups)
        if trains_on_reference:
            train = with_reference(train, logps)
        text = describe(first, self.tokenizer, shared=layout_reason is None)
        of_test = logps[len(logps) - len(test) :]
        return _Ready(layout_reason, head_reason, computed, train, of_test, text)

    def _choose_head(self, first: Sequence[TokenGroup]) -> str | None:
        """Turn the chunked head off if it is wrong on the first batch. Return the reason, or None."""
        reason = processes.from_rank_0(check_head(self.policy, first, self.collator.pad_id))
        if reason:
            self.policy.head = None
            self.run_dir.message(
                f"The head of this model is not used in parts: {reason}. Training continues with "
                "the model's own logits, which take more memory.",
                level="warning",
            )
        return reason

    def _reference_logps(self, groups: Sequence[TokenGroup]) -> tuple[list[np.ndarray], int]:
        """Return log π_ref of each group's responses, (K,) each, and how many were not in the cache."""
        self.run_dir.stage("Computing the reference log-probabilities")
        restore(self.policy, self.reference or self.untrained)
        result = reference_logps(
            self.run_dir, self.policy, self.config.adapter, groups, self.collator, self.stop
        )
        restore(self.policy, self.untrained)
        return result


def with_reference(groups: Sequence[TokenGroup], logps: Sequence[np.ndarray]) -> list[TokenGroup]:
    """Return the groups with log π_ref of their responses as a signal.

    `logps` has an array (K,) for each group, and then one for each group of mismatched responses.
    """
    of_others = iter(logps[len(groups) :])

    def added(group: TokenGroup, values: np.ndarray) -> TokenGroup:
        return replace(group, signals={**group.signals, "reference": values})

    return [
        replace(
            added(group, values),
            mismatched=group.mismatched and added(group.mismatched, next(of_others)),
        )
        for group, values in zip(groups, logps, strict=False)
    ]


def with_token_limit(config: FinetuneSettings) -> FinetuneSettings:
    """Return the config with a limit on tokens per forward pass.

    If it has none, it gets the default limit for this machine.
    """
    if config.tokens_at_once:
        return config
    return replace(config, tokens_at_once=default_tokens_at_once())


def make_trainer(
    run_dir: RunDir,
    config: FinetuneSettings,
    policy: PolicyModel,
    loss: Loss,
    train: Sequence[TokenGroup],
    steps: StepCollator,
    stop: StopSignal,
) -> PolicyTrainer:
    batch = (config.batch_size, 1)
    trainer = PolicyTrainer(
        loss=loss,
        policy=policy,
        args=TrainingArguments(
            **common_arguments(run_dir, config, rows=len(train), batch=batch, saves=10),
            remove_unused_columns=False,
            label_names=["labels"],
        ),
        train_dataset=train,
        data_collator=steps,
        callbacks=common_callbacks(run_dir, ProgressEvents(run_dir), stop),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer

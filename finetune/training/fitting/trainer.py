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
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from finetune.methods.method import Loss, Method
from finetune.settings import FinetuneSettings
from finetune.training.fitting.held_out import HeldOut
from finetune.training.fitting.reference import ReferenceCache, cache_key, reference_logps
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

TOKENS_AT_ONCE = {False: 512, True: 8192}
"""The default limit on tokens per forward pass, without and with a GPU.

On a CPU, a product of 256 rows is as fast as one of 4,096 (87 GFLOP/s on one core), so a higher limit
would only take more memory.
"""


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
) -> Fitted:
    """Train the policy on the train split. Raises Stopped, RecipeError or RestartRequired.

    `reference` has the trained weights of the reference, as `trained_weights` returns them. Without
    it, the policy before training is the reference. If memory runs out, the micro-batch is halved, and
    the model and the log-probabilities of the reference are used again.
    """
    untrained = trained_weights(policy)
    collator = Collator(tokenizer.pad_token_id, targets=True)
    loss = method.loss(prepared.groups["train"])
    ready: _Ready | None = None

    # A batch of the trainer is a whole step, which the collator divides into parts, so there are no
    # accumulation steps.
    def attempt(micro_batch_size: int, _accumulation: int) -> Fitted:
        nonlocal ready
        set_seed(config.seed)
        restore(policy, untrained)
        steps = step_collator(with_token_limit(config), collator, micro_batch_size)
        train = ready.train if ready else prepared.tokens["train"]
        trainer = make_trainer(run_dir, config, policy, loss, train, steps, stop)
        ready = ready or check_first_batch(trainer)
        trainer.train_dataset = ready.train
        held_out = HeldOut(policy, method, prepared, ready.test_reference, collator, stop)
        events = ProgressEvents(run_dir)
        trainer.add_callback(WatchHeldOut(held_out.watch, events, config.evaluations))
        run_dir.stage("Trying the largest batch")
        trainer.try_largest_part()
        train_to_the_end(trainer, run_dir)
        return Fitted(
            trainer,
            held_out,
            collator,
            ready.layout_reason,
            ready.head_reason,
            ready.reference_computed,
            ready.first,
        )

    def check_first_batch(trainer: PolicyTrainer) -> _Ready:
        first = first_batch(trainer)
        run_dir.stage("Checking the first batch")
        head_reason = processes.from_rank_0(check_head(policy, first, collator.pad_id))
        if head_reason:
            policy.head = None
            run_dir.message(
                f"The head of this model is not used in parts: {head_reason}. Training continues with "
                "the model's own logits, which take more memory.",
                level="warning",
            )
        layout_reason = choose_layout(run_dir, config, policy, collator, first, prepared)
        if config.compile:
            compile_layers(policy.inner)
        train, test = prepared.tokens["train"], prepared.tokens["test"]
        others = [group.mismatched for group in train if group.mismatched]
        groups = [*(train if method.trains_on_reference else []), *others, *test]
        run_dir.stage("Computing the reference log-probabilities")
        cache = ReferenceCache(run_dir, cache_key(policy, config.adapter, str(policy.inner.dtype)))
        restore(policy, reference or untrained)
        with trainer.compute_loss_context_manager():
            logps, computed = reference_logps(policy, groups, collator, cache, stop)
        restore(policy, untrained)
        if method.trains_on_reference:
            train = with_reference(train, logps)
        text = describe(first, tokenizer, shared=layout_reason is None)
        of_test = logps[len(logps) - len(test) :]
        return _Ready(layout_reason, head_reason, computed, train, of_test, text)

    return with_smaller_batches(
        attempt,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        run_dir=run_dir,
    )


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
    return replace(config, tokens_at_once=TOKENS_AT_ONCE[torch.cuda.is_available()])


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

"""TRL's DPOTrainer with its own loss, loop and checkpoints, but our data and our order of rows."""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOTrainer

from finetune.training.held_out import HeldOut
from recipes.errors import Stopped
from recipes.trainer_callbacks import ProgressEvents

WATCHED_GROUPS = 100
"""Held-out prompts scored during training. After the last step all are scored, as in the report."""


class PretokenizedDPOTrainer(DPOTrainer):
    """A DPOTrainer for rows of prompt_ids, chosen_ids, rejected_ids, ref_*_logps and length.

    TRL 1.16 tokenizes and truncates its dataset, and has no option to skip that.
    """

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> "SortedBatches":
        # The rows of one optimizer step over all processes. Sorting any other number of rows would
        # change which rows are in a step.
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        lengths = self.train_dataset["length"]
        return SortedBatches(lengths, batch * self.args.world_size, seed=self.args.data_seed)


class SortedBatches(Sampler[int]):
    """A sampler that shuffles each epoch, then sorts each effective batch, longest rows first.

    A step sees the same rows as after plain shuffling, but the rows of a micro-batch have similar
    lengths, which saves about a quarter of the padding. The order depends only on seed and epoch.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int):
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.lengths))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            yield from batch[np.argsort(-self.lengths[batch], kind="stable")].tolist()


class WatchHeldOut(TrainerCallback):
    """An evaluation on held-out pairs, `times` times at even intervals, and after the last step."""

    def __init__(self, held_out: HeldOut, events: ProgressEvents, times: int):
        self.held_out = held_out
        self.events = events
        self.times = times

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        total = state.max_steps
        due = {ceil(total * part / self.times) for part in range(1, self.times + 1)}
        if state.global_step not in due:
            return
        if state.is_world_process_zero:
            self.events.run_dir.stage("Scoring held-out prompts")
        try:
            figures = self.held_out.figures(self._rewards(last=state.global_step == total))
        except Stopped:
            control.should_save = control.should_training_stop = True
            return
        if figures and state.is_world_process_zero:
            self.events.emit(state, {f"held_out/{name}": value for name, value in figures.items()})

    def _rewards(self, *, last: bool) -> list[np.ndarray]:
        """Return the rewards of some prompts, or of all after the last step, as in the report."""
        if not last:
            return self.held_out.rewards(WATCHED_GROUPS)
        self.held_out.final = self.held_out.rewards()
        return self.held_out.final

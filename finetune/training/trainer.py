"""TRL's DPOTrainer, configured. Its loss, its loop and its checkpoints are its own; two things are
handed to it ready-made: data that is tokenized and measured already, and the order to take it in."""

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
"""Held-out prompts scored during training; after the last step all are, as in the report."""


class ReadyDPOTrainer(DPOTrainer):
    """Expects rows of prompt_ids, chosen_ids, rejected_ids, ref_*_logps and length.

    TRL 1.16 tokenizes (and cuts) what it is given and has no option to leave that out.
    """

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> "SortedBatches":
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        lengths = self.train_dataset["length"]
        return SortedBatches(lengths, batch * self.args.world_size, seed=self.args.data_seed)


class SortedBatches(Sampler[int]):
    """Shuffles each epoch, then sorts each effective batch by length, the longest first.

    A step sees the same rows as after plain shuffling, but its micro-batches hold rows of like
    length, which saves about a quarter in padding. The order follows from seed and epoch alone.
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
    """Scores held-out pairs `times` times at even distances, the last time after the last step."""

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
        """After the last step over all prompts, so that the curve ends at the report's number."""
        if not last:
            return self.held_out.rewards(WATCHED_GROUPS)
        self.held_out.final = self.held_out.rewards()
        return self.held_out.final

"""Trainings on parts of the train split, for the learning curve and for label mistakes.

Each part has its own run directory in parts/, so a stopped run resumes inside a part. A finished part
keeps its scores, but no checkpoint. The messages of a part are also messages of the run, but its curves
are not shown.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from formatting.numbers import percent
from recipes.machine import processes
from recipes.machine.memory import free_memory
from recipes.preferences.tokens import Prepared
from recipes.rundir import RunDir
from recipes.training import checkpoints
from recipes.training.parts import Part
from reward.evaluation.label_mistakes import folds_of, label_mistakes
from reward.evaluation.learning_curve import (
    Point,
    at_most,
    learning_curve,
    point,
    subsets,
    why_not_measured,
)
from reward.evaluation.report import Scored, agreeing_share, order_tally
from reward.evaluation.schema import LabelMistakes, LearningCurve
from reward.settings import RewardConfig

TrainAndScore = Callable[[RunDir, Prepared], list[Scored]]
"""A function that trains on the `train` split in a run directory and scores the `test` split."""


@dataclass(frozen=True)
class Parts:
    run_dir: RunDir
    prepared: Prepared
    train_and_score: TrainAndScore
    sent: set[str] = field(default_factory=set)

    def curve(self, config: RewardConfig) -> list[Point]:
        """Return the points of the learning curve, after a training on each subset.

        All trainings together take less time than one on all prompts.
        """
        train, points = self.prepared.groups["train"], []
        for indices in self._subsets(config):
            title = f"{len(indices)} of {len(train)} prompts"
            part = Part(self.run_dir, f"curve-{len(indices)}", title, self.sent)
            message = f"Training on {title} for the learning curve."
            scored = self._scored(part, message, self._data(indices, "test"))
            points.append(point([train[index] for index in indices], scored))
        return points

    def _subsets(self, config: RewardConfig) -> list[list[int]]:
        if not config.learning_curve or why_not_measured(self.prepared.groups["test"]):
            return []
        return subsets(len(self.prepared.groups["train"]), config.learning_curve, config.seed)

    def folds(self, config: RewardConfig) -> list[list[Scored]]:
        """Return each fold of the train split, scored by a model that was trained on the other folds.

        This takes about the time of `folds` - 1 trainings.
        """
        train, parts = self.prepared.groups["train"], []
        folds = min(config.label_mistakes, len(train))
        if folds < 2:
            return []
        fold = folds_of(train, folds, config.seed)
        for number in range(folds):
            held_out, rest = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            title = f"Without part {number + 1} of {folds}"
            part = Part(self.run_dir, f"without-{number + 1}", title, self.sent)
            message = f"Training without part {number + 1} of {folds} to look for mistakes in it."
            data = self._data(rest.tolist(), "train", held_out.tolist())
            parts.append(self._scored(part, message, data))
        return parts

    def learning_curve(
        self, config: RewardConfig, smaller: Sequence[Point], scored: Sequence[Scored]
    ) -> LearningCurve | None:
        """Return the learning curve for the report, or None if it is turned off.

        `scored` are the held-out prompts, scored by the model that was trained on the whole train split.
        """
        if not config.learning_curve:
            return None
        groups = [item.group for item in scored]
        everything = point(self.prepared.groups["train"], scored)
        return learning_curve([*smaller, everything], at_most=at_most(groups), seed=config.seed)

    def label_mistakes(
        self, folds: Sequence[Sequence[Scored]], scored: Sequence[Scored]
    ) -> LabelMistakes:
        """Return the label mistakes in the folds and the held-out prompts, for the report."""
        return label_mistakes([*folds, scored], checked="all" if folds else "held-out")

    def _scored(self, part: Part, message: str, data: Prepared) -> list[Scored]:
        """Return the scored test split of `data`, after a training on its train split.

        If the part is already finished, its scores are read from its file.
        """
        done = part.path / "scores.npz"
        checkpoints.delete_if_damaged(part, done)
        if done.exists():
            self._forget_checkpoints(part)
            return _read(done, data)
        self.run_dir.message(message)
        part.checkpoints.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        scored = self.train_and_score(part, data)
        free_memory()  # accelerate may leave the model in a cycle of references
        if processes.rank():
            return scored
        with checkpoints.sealed(done) as draft, draft.open("wb") as file:
            np.savez(file, *[item.scores for item in scored])
        self._forget_checkpoints(part)
        seconds = round(time.monotonic() - started)
        self.run_dir.message(f"{part.title}: trained and scored in {seconds} s{_accuracy(scored)}.")
        return scored

    @staticmethod
    def _forget_checkpoints(part: Part) -> None:
        if not processes.rank():
            shutil.rmtree(part.checkpoints, ignore_errors=True)

    def _data(
        self, train: Sequence[int], split: str, indices: Sequence[int] | None = None
    ) -> Prepared:
        """Return data with these training prompts. The prompts of `split` at `indices` are scored.

        Without `indices`, the whole split is scored.
        """
        groups, tokens = self.prepared.groups, self.prepared.tokens
        scored = range(len(groups[split])) if indices is None else indices
        return Prepared(
            loss_inputs=self.prepared.loss_inputs,
            groups={
                "train": [groups["train"][i] for i in train],
                "test": [groups[split][i] for i in scored],
            },
            tokens={
                "train": [tokens["train"][i] for i in train],
                "test": [tokens[split][i] for i in scored],
            },
        )


def _accuracy(scored: Sequence[Scored]) -> str:
    right = agreeing_share([order_tally(item.group, item.scores) for item in scored])
    return "" if right is None else f", accuracy {percent(right)} on prompts it did not see"


def _read(done: Path, part: Prepared) -> list[Scored]:
    with np.load(done) as arrays:
        scores = [arrays[name] for name in arrays.files]
    rows = zip(part.groups["test"], scores, part.tokens["test"], strict=True)
    return [Scored(group, values, tokens.lengths()) for group, values, tokens in rows]

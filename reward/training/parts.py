"""Trainings on parts of the train split, for what only a model that has not seen the rest can tell.

Each part is a run directory of its own under parts/, so a run that was stopped goes on inside it; a
part that is done leaves its scores, and no checkpoint.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reward.recipe_config import RewardConfig
from reward.training import processes
from reward.training.label_mistakes import folds_of, label_mistakes
from reward.training.learning_curve import (
    Point,
    at_most,
    learning_curve,
    point,
    subsets,
    why_not_measured,
)
from reward.training.report import Scored
from reward.training.tokens import Prepared
from runs.rundir import RunDir, atomically

TrainAndScore = Callable[[RunDir, Prepared], list[Scored]]
"""Trains on the `train` split in that folder; scores the `test` split."""


@dataclass(frozen=True)
class Parts:
    run_dir: RunDir
    prepared: Prepared
    train_and_score: TrainAndScore

    def curve(self, config: RewardConfig) -> list[Point]:
        """One for each subset of the learning curve; together they cost less than one more training."""
        train, points = self.prepared.groups["train"], []
        for places in self._subsets(config):
            self.run_dir.message(
                f"Training on {len(places)} of {len(train)} prompts for the learning curve."
            )
            scored = self._scored(f"curve-{len(places)}", places, "test", None)
            points.append(point([train[place] for place in places], scored))
        return points

    def _subsets(self, config: RewardConfig) -> list[list[int]]:
        if not config.learning_curve or why_not_measured(self.prepared.groups["test"]):
            return []
        return subsets(len(self.prepared.groups["train"]), config.learning_curve, config.seed)

    def folds(self, config: RewardConfig) -> list[list[Scored]]:
        """The train split, each fold scored by a model trained on the others: `folds` - 1 trainings."""
        train, parts = self.prepared.groups["train"], []
        folds = min(config.label_mistakes, len(train))
        if folds < 2:
            return []
        fold = folds_of(train, folds, config.seed)
        for number in range(folds):
            self.run_dir.message(
                f"Training without part {number + 1} of {folds} to look for mistakes in it."
            )
            out, rest = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            parts.append(
                self._scored(f"without-{number + 1}", rest.tolist(), "train", out.tolist())
            )
        return parts

    def figures(
        self,
        config: RewardConfig,
        smaller: Sequence[Point],
        folds: Sequence[Sequence[Scored]],
        scored: Sequence[Scored],
    ) -> dict[str, Any]:
        """For the report; `scored` is what the model trained on everything says of the held-out."""
        groups = [item.group for item in scored]
        everything = point(self.prepared.groups["train"], scored)
        curve = learning_curve([*smaller, everything], at_most=at_most(groups), seed=config.seed)
        checked = "all" if folds else "held-out"
        return {
            "learning_curve": curve if config.learning_curve else None,
            "label_mistakes": label_mistakes([*folds, scored], checked=checked),
        }

    def _scored(
        self, name: str, train: Sequence[int], split: str, places: Sequence[int] | None
    ) -> list[Scored]:
        """What a model trained on these places says of those of a split; None stands for all."""
        part = self._part(train, split, places)
        folder = type(self.run_dir)(self.run_dir.path / "parts" / name)
        done = folder.path / "scores.npz"
        if done.exists():
            return _read(done, part)
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        scored = self.train_and_score(folder, part)
        if processes.rank():
            return scored
        with atomically(done) as draft, draft.open("wb") as file:
            np.savez(file, *[item.scores for item in scored])
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
        return scored

    def _part(self, train: Sequence[int], split: str, places: Sequence[int] | None) -> Prepared:
        groups, tokens = self.prepared.groups, self.prepared.tokens
        judged = range(len(groups[split])) if places is None else places
        return Prepared(
            self.prepared.evidence,
            {
                "train": [groups["train"][p] for p in train],
                "test": [groups[split][p] for p in judged],
            },
            {
                "train": [tokens["train"][p] for p in train],
                "test": [tokens[split][p] for p in judged],
            },
        )


def _read(done: Path, part: Prepared) -> list[Scored]:
    with np.load(done) as kept:
        scores = [kept[name] for name in kept.files]
    rows = zip(part.groups["test"], scores, part.tokens["test"], strict=True)
    return [Scored(group, found, tokens.lengths()) for group, found, tokens in rows]

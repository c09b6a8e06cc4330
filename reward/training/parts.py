"""Trainings on parts of the train split, for what only a model that has not seen the rest can tell.

Each part is a run directory of its own under parts/, so a run that was stopped goes on inside it; a
part that is done leaves its scores, and no checkpoint. What is said in a part, the whole run says too;
its curves stay its own.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from formatting.numbers import percent
from recipes import checkpoints, processes
from recipes.memory import free_memory
from recipes.preferences.tokens import Prepared
from recipes.rundir import RunDir
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
from reward.settings import RewardConfig

TrainAndScore = Callable[[RunDir, Prepared], list[Scored]]
"""Trains on the `train` split in that folder; scores the `test` split."""


class Part(RunDir):
    """Told in its own events and, once for all parts that say the same, in those of the whole run."""

    def __init__(self, whole: RunDir, name: str, title: str, said: set[str]):
        super().__init__(whole.path / "parts" / name)
        self._whole = whole
        self.title = title
        self.said = said

    @property
    def whole(self) -> RunDir:
        return self._whole

    def emit(self, event: str, **fields: Any) -> None:
        if not processes.rank():
            super().emit(event, **fields)

    def stage(self, text: str) -> None:
        super().stage(text)
        self.whole.stage(f"{self.title}: {text}")

    def message(self, text: str, level: str = "info") -> None:
        super().message(text, level)
        if text not in self.said:
            self.said.add(text)
            self.whole.message(f"{self.title}: {text}", level)


@dataclass(frozen=True)
class Parts:
    run_dir: RunDir
    prepared: Prepared
    train_and_score: TrainAndScore
    said: set[str] = field(default_factory=set)

    def curve(self, config: RewardConfig) -> list[Point]:
        """One for each subset of the learning curve; together they cost less than one more training."""
        train, points = self.prepared.groups["train"], []
        for places in self._subsets(config):
            title = f"{len(places)} of {len(train)} prompts"
            part = Part(self.run_dir, f"curve-{len(places)}", title, self.said)
            said = f"Training on {title} for the learning curve."
            scored = self._scored(part, said, self._data(places, "test"))
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
            out, rest = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            title = f"Without part {number + 1} of {folds}"
            part = Part(self.run_dir, f"without-{number + 1}", title, self.said)
            said = f"Training without part {number + 1} of {folds} to look for mistakes in it."
            data = self._data(rest.tolist(), "train", out.tolist())
            parts.append(self._scored(part, said, data))
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

    def _scored(self, part: Part, announced: str, data: Prepared) -> list[Scored]:
        """What a model trained on the data's train split says of its test split."""
        done = part.path / "scores.npz"
        if checkpoints.is_good(part, done):
            self._forget_checkpoints(part)
            return _read(done, data)
        self.run_dir.message(announced)
        part.checkpoints.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        scored = self.train_and_score(part, data)
        free_memory()  # accelerate may leave the model in a cycle of references
        if processes.rank():
            return scored
        with checkpoints.sealed(done) as draft, draft.open("wb") as file:
            np.savez(file, *[item.scores for item in scored])
        self._forget_checkpoints(part)
        seconds = round(time.monotonic() - began)
        told = f"trained and scored in {seconds} s{_accuracy(scored)}."
        self.run_dir.message(f"{part.title}: {told}")
        return scored

    @staticmethod
    def _forget_checkpoints(part: Part) -> None:
        if not processes.rank():
            shutil.rmtree(part.checkpoints, ignore_errors=True)

    def _data(
        self, train: Sequence[int], split: str, places: Sequence[int] | None = None
    ) -> Prepared:
        """To train on these places, and judge those of a split; None stands for all."""
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


def _accuracy(scored: Sequence[Scored]) -> str:
    right = agreeing_share([order_tally(item.group, item.scores) for item in scored])
    return "" if right is None else f", accuracy {percent(right)} on prompts it did not see"


def _read(done: Path, part: Prepared) -> list[Scored]:
    with np.load(done) as kept:
        scores = [kept[name] for name in kept.files]
    rows = zip(part.groups["test"], scores, part.tokens["test"], strict=True)
    return [Scored(group, found, tokens.lengths()) for group, found, tokens in rows]

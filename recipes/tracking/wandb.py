"""Runs in Weights & Biases, with its package `wandb`, which is not installed by default."""

import os
import secrets
from pathlib import Path
from typing import Any

from recipes.tracking.events import Point


class WeightsAndBiases:
    """The run in Weights & Biases. All attempts of a run continue the same run there."""

    name = "Weights & Biases"

    def __init__(
        self, folder: Path, state: dict[str, Any], spec: dict[str, Any], title: str, project: str
    ):
        self.folder = folder
        self.state = state
        self.spec = spec
        self.title = title
        self.project = os.environ.get("WANDB_PROJECT") or f"tiebreak-{project}"
        self.run: Any = None

    def begin(self) -> None:
        import wandb

        self.run = wandb.init(
            project=self.project,
            name=self.title,
            config=self.spec.get("config") or {},
            tags=[str(self.spec.get("kind"))],
            dir=str(self.folder),
            id=self.state.setdefault("id", secrets.token_hex(4)),
            resume="allow",
        )
        self.run.define_metric("tiebreak_step")
        self.run.define_metric("*", step_metric="tiebreak_step")

    def log(self, points: list[Point]) -> None:
        # A resumed run repeats steps, which W&B accepts only for a step of our own.
        for point in points:
            self.run.log({**point.values, "tiebreak_step": point.step})

    def end(self, outcome: str) -> None:
        self.run.finish(exit_code=0 if outcome == "succeeded" else 1)

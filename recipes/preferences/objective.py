"""What a run minimises: the settings' choice among the losses of loss.py, group by group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from recipes.preferences import loss
from recipes.preferences.evidence import tie_share, unweighted
from recipes.preferences.groups import Group
from recipes.training_settings import ObjectiveSettings


@dataclass(frozen=True)
class Objective:
    """`tie_width` is Davidson's ν or Rao and Kupper's η; it means nothing where ties are half wins."""

    ties: str = "half"
    tie_width: float = 0.0
    cut_weight: float = 0.0
    criteria_weight: float = 0.0
    heads: int = 1

    @classmethod
    def of(cls, config: ObjectiveSettings, groups: Sequence[Group]) -> Self:
        """The width of ties follows from their share in `groups`, those that are trained on.

        Among all their pairs, not only those of equal scores, which nobody knows yet: it is narrow
        rather than wide.
        """
        widths = {"davidson": loss.davidson_width, "rao_kupper": loss.rao_kupper_width}
        counted = map(unweighted, groups) if config.reviewer_weights == "ignore" else groups
        width = widths[config.ties](tie_share(counted)) if config.ties in widths else 0.0
        return cls(config.ties, width, config.cut_weight, config.criteria_weight, config.heads)

    def losses(self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Of each group, the mean over heads. The batch is as `layout.evidence` makes it.

        outputs (G, K, N + C) → (G,) float32
        """
        scores, of_criteria = outputs.movedim(-1, 0).split_with_sizes(
            [self.heads, outputs.shape[-1] - self.heads]
        )  # (N, G, K), (C, G, K)
        losses = self._order(scores, batch)  # (N, G)
        if self.cut_weight:
            lost = loss.acceptance(scores, batch["above"], batch["below"])
            losses = losses + self.cut_weight * lost
        if "draws" in batch:
            losses = losses * batch["draws"].T
        losses = losses.mean(dim=0)  # (G,)
        if len(of_criteria):
            lost = loss.bradley_terry(of_criteria, batch["criteria"].movedim(1, 0))  # (C, G)
            losses = losses + self.criteria_weight * lost.mean(dim=0)
        return losses * batch["weight"] if "weight" in batch else losses

    def _order(self, scores: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        wins = batch["wins"]
        graded = loss.Graded(batch["graded"], batch["margins"]) if "graded" in batch else None
        if self.ties == "half":
            return loss.bradley_terry(scores, wins, graded)
        with_ties = loss.davidson if self.ties == "davidson" else loss.rao_kupper
        return with_ties(scores, wins, batch["ties"], self.tie_width, graded)

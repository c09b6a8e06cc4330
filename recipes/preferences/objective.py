"""The objective of a run: the losses of loss.py that are selected by its settings.

Legend: G groups, K responses in the largest group, N heads, C criteria.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from recipes.preferences import loss
from recipes.preferences.groups import Group
from recipes.preferences.loss_inputs import tie_share, unweighted
from recipes.training_settings import ObjectiveSettings


@dataclass(frozen=True)
class Objective:
    """The losses to minimise.

    `tie_width` is Davidson's ν or Rao and Kupper's η. It is not used if ties are half wins.
    """

    ties: str = "half"
    tie_width: float = 0.0
    cut_weight: float = 0.0
    criteria_weight: float = 0.0
    heads: int = 1

    @classmethod
    def of(cls, config: ObjectiveSettings, groups: Sequence[Group]) -> Self:
        """Return the objective for the settings and the training groups.

        The width of ties is computed from the share of ties among all pairs of `groups`. It should
        be computed from pairs with equal scores, but these are unknown. So the width tends to be too
        narrow.
        """
        widths = {"davidson": loss.davidson_width, "rao_kupper": loss.rao_kupper_width}
        used = map(unweighted, groups) if config.reviewer_weights == "ignore" else groups
        width = widths[config.ties](tie_share(used)) if config.ties in widths else 0.0
        return cls(config.ties, width, config.cut_weight, config.criteria_weight, config.heads)

    def losses(
        self,
        outputs: torch.Tensor,  # (G, K, N + C)
        batch: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return the loss of each group, averaged over the heads, (G,) float32.

        `batch` contains the result of `layout.collate.loss_tensors`.
        """
        scores, of_criteria = outputs.movedim(-1, 0).split_with_sizes(
            [self.heads, outputs.shape[-1] - self.heads]
        )  # (N, G, K), (C, G, K)
        losses = self._order(scores, batch)  # (N, G)
        if self.cut_weight:
            lost = loss.acceptance(scores, batch["above"], batch["below"])  # (N, G)
            losses = losses + self.cut_weight * lost
        if "draws" in batch:
            losses = losses * batch["draws"].T  # (N, G)
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

"""Features of responses: the last hidden state at the end of a response, projected to fewer numbers.

The score is r = w·x with features x, so responses with similar features give the head the same
information. If a hidden state has too many numbers, it is projected by a fixed random matrix with
orthonormal columns (Johnson and Lindenstrauss 1984). The projection preserves inner products in
expectation, and each run of a model gives the same features. The features do not show what training
could change in lower layers through LoRA.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from recipes.errors import RecipeError
from recipes.layout.collate import Collator
from recipes.layout.forward import outputs_of
from recipes.preferences.tokens import TokenGroup
from reward.training.models.reward_model import RewardModel
from reward.training.score import Scorer, Verdict


@lru_cache(maxsize=8)
def projection(width: int, dims: int) -> np.ndarray:
    """Return the matrix of the projection, (width, dims) float32.

    It is the identity if `width` is at most `dims`.
    """
    if width <= dims:
        return np.eye(width, dtype=np.float32)
    normal = np.random.default_rng([width, dims]).standard_normal((width, dims))
    columns = np.linalg.qr(normal)[0] * np.sqrt(width / dims)
    return columns.astype(np.float32)


@contextmanager
def last_layer(model: RewardModel) -> Iterator[list[torch.Tensor]]:
    """Yield a list that collects the inputs of the score head, one for each call in the block.

    Raises RecipeError if the family has no linear head.
    """
    head = getattr(model.classifier, "score", None)
    if head is None:
        raise RecipeError(
            f"{model.config.model_type} has no linear score head, and so no features. Turn off "
            "keep_features."
        )
    inputs: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    try:
        yield inputs
    finally:
        hook.remove()


class FeatureScorer(Scorer):
    """A scorer that also returns features, from the same forward pass."""

    def __init__(self, output: Any, *, dims: int, **options: Any):
        """Load the model. `dims` is the maximum number of features per response. 0 turns them off."""
        super().__init__(output, **options)
        hidden = self.model.config.get_text_config().hidden_size
        self.projection = projection(hidden, dims) if dims else np.zeros((hidden, 0), np.float32)
        self.width += self.projection.shape[1]

    def _forward(self, groups: Sequence[TokenGroup]) -> np.ndarray:
        if not self.projection.shape[1]:
            return super()._forward(groups)
        collator = Collator(self.collator.pad_id, self.collator.layout)
        with last_layer(self.model) as inputs:
            outputs = outputs_of(self.model, groups, collator).numpy()  # (G, K, N + C)
        hidden = inputs[-1].float().cpu().numpy()  # (G, K, H), or (rows, H)
        if hidden.shape[:-1] != outputs.shape[:-1]:
            hidden = hidden[collator(groups)["rows"].numpy()]
        return np.concatenate([outputs, hidden @ self.projection], axis=-1)

    def judge_with_features(self, conversations: Any) -> list[tuple[Verdict, np.ndarray]]:
        """Return verdicts as `judge` does, each with features, (K, dims) float32.

        The features of a response without a score are NaN.
        """
        end = self.heads + len(self.criteria)
        return [
            (Verdict(outputs[:, : self.heads], outputs[:, self.heads : end]), outputs[:, end:])
            for outputs in self._outputs(conversations)
        ]

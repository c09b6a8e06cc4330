"""What the score is read from: the last layer at a response's end, in few enough numbers to store.

A linear head makes the score r = w·x of these, so x says which responses teach the head the same.
A layer wider than wanted is projected by a fixed random matrix with orthonormal columns (Johnson and
Lindenstrauss 1984): inner products stay what they are in expectation, and every run of the same
model gives the same numbers. What LoRA below the last layer could still learn is not in them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from recipes.errors import RecipeError
from recipes.layout.collate import Collator
from recipes.preferences.tokens import TokenGroup
from reward.training.model import RewardModel, outputs_of
from reward.training.score import Scorer, Verdict


@lru_cache(maxsize=8)
def projection(width: int, dims: int) -> np.ndarray:
    """→ (width, dims) float32; the identity where nothing has to go."""
    if width <= dims:
        return np.eye(width, dtype=np.float32)
    drawn = np.random.default_rng([width, dims]).standard_normal((width, dims))
    columns = np.linalg.qr(drawn)[0] * np.sqrt(width / dims)
    return columns.astype(np.float32)


@contextmanager
def last_layer(model: RewardModel) -> Iterator[list[torch.Tensor]]:
    """What the score head is given by each call of the model, in order. Raises RecipeError where the
    family has no linear head to listen at.
    """
    head = getattr(model.classifier, "score", None)
    if head is None:
        raise RecipeError(
            f"{model.config.model_type} has no linear score head, so no features. Turn keep_features "
            "off."
        )
    heard: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: heard.append(given[0].detach()))
    try:
        yield heard
    finally:
        hook.remove()


class FeatureScorer(Scorer):
    """A scorer whose verdicts come with features, of the same forward pass."""

    def __init__(self, output: Any, *, dims: int, **options: Any):
        """`dims` numbers a response at most; 0 for none."""
        super().__init__(output, **options)
        hidden = self.model.config.get_text_config().hidden_size
        self.projection = projection(hidden, dims) if dims else np.zeros((hidden, 0), np.float32)
        self.width += self.projection.shape[1]

    def _forward(self, groups: Sequence[TokenGroup]) -> np.ndarray:
        if not self.projection.shape[1]:
            return super()._forward(groups)
        laid_out = Collator(self.collator.pad_id, self.collator.layout)
        with last_layer(self.model) as heard:
            outputs = outputs_of(self.model, groups, laid_out).numpy()  # (G, K, N + C)
        hidden = heard[-1].float().cpu().numpy()  # (G, K, H), or (rows, H)
        if hidden.shape[:-1] != outputs.shape[:-1]:
            hidden = hidden[laid_out(groups)["rows"].numpy()]
        return np.concatenate([outputs, hidden @ self.projection], axis=-1)

    def judge_with_features(self, conversations: Any) -> list[tuple[Verdict, np.ndarray]]:
        """Verdicts as `judge`, each with (K, dims) float32, NaN where there is no score."""
        end = self.heads + len(self.criteria)
        return [
            (Verdict(said[:, : self.heads], said[:, self.heads : end]), said[:, end:])
            for said in self._ask(conversations)
        ]

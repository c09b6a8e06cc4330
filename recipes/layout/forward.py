"""Forward passes over groups of responses, in either layout.

Legend: G groups, K responses in the largest group, H hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from recipes.layout.collate import Batch, Collator, for_model
from recipes.preferences.tokens import TokenGroup


class SharedPromptModel(Protocol):
    """A model that reads batches of both layouts.

    `classifier` is the transformers model inside, and `attends` one of the attentions of
    attention.py. Calling the model returns {"outputs": (G, K, N)}.
    """

    attends: str

    @property
    def classifier(self) -> Any: ...
    @property
    def config(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def reads_last_token(self) -> bool: ...
    def features(self, input_ids: torch.Tensor, **laid_out: Any) -> torch.Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...
    def __call__(self, **batch: Any) -> dict[str, torch.Tensor]: ...


@torch.no_grad()
def features_of(
    model: SharedPromptModel, groups: Sequence[TokenGroup], collator: Collator
) -> torch.Tensor:
    """Return the input of the decoder's head in evaluation mode, (G, K, H) float32 on the CPU."""
    inputs = inputs_of(model, groups, collator)
    del inputs["present"]
    with evaluating(model):
        return model.features(**inputs).float().cpu()


def inputs_of(model: SharedPromptModel, groups: Sequence[TokenGroup], collator: Collator) -> Batch:
    batch = for_model(collator(groups))
    return {name: values.to(model.device) for name, values in batch.items()}


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

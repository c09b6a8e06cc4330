"""Forward passes over groups of responses, in either layout.

Legend: G groups, K responses in the largest group, H hidden size, N outputs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from recipes.layout.collate import Batch, Collator, cut, for_model
from recipes.machine.memory import free_memory, is_out_of_memory
from recipes.preferences.tokens import TokenGroup
from recipes.stopping import StopSignal

SCORING_TOKENS = 8192
"""Tokens per forward pass without gradients. Halved when memory runs out."""


class SharedPromptModel(Protocol):
    """A model that reads batches of both layouts.

    `inner` is the transformers model inside, and `attends` one of the attentions of attention.py.
    `reads_targets` asks for batches with the positions that predict the responses' tokens. Calling
    the model returns {"outputs": (G, K, N)}.
    """

    attends: str
    reads_targets: bool

    @property
    def inner(self) -> Any: ...
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


@torch.no_grad()
def outputs_of(
    model: SharedPromptModel, groups: Sequence[TokenGroup], collator: Collator
) -> torch.Tensor:
    """Return all outputs of a batch, in evaluation mode.  → (G, K, N) float32 on the CPU"""
    inputs = inputs_of(model, groups, collator)
    with evaluating(model):
        return model(**inputs)["outputs"].float().cpu()


def score_all(
    model: SharedPromptModel,
    groups: Sequence[TokenGroup],
    collator: Collator,
    stop: StopSignal | None = None,
) -> list[np.ndarray]:
    """Return the outputs for the responses of each group, in order.  → (K, N) arrays

    Halves the tokens per forward pass when memory runs out. Raises Stopped on a stop signal.
    """
    sizes, at_once = [collator.tokens(group) for group in groups], SCORING_TOKENS
    scores: list[np.ndarray] = []
    while len(scores) < len(groups):
        if stop:
            stop.check()
        first = len(scores)
        indices = next(cut(sizes[first:], max_tokens=at_once))
        chosen = [groups[first + index] for index in indices]
        try:
            rows = outputs_of(model, chosen, collator).numpy()
        except (RuntimeError, MemoryError) as error:
            if len(chosen) == 1 or not is_out_of_memory(error):
                raise
            at_once = max(sizes[first : first + len(chosen)]) * len(chosen) // 2
            free_memory()
            continue
        scores += [row[: len(g.responses)] for row, g in zip(rows, chosen, strict=True)]
    return scores


def inputs_of(model: SharedPromptModel, groups: Sequence[TokenGroup], collator: Collator) -> Batch:
    # Groups of different kinds may be scored together, and the model reads no signals.
    batch = for_model(collator([replace(group, signals={}) for group in groups]))
    return {name: values.to(model.device) for name, values in batch.items()}


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

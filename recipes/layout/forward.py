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

TOKENS_AT_ONCE = {False: 512, True: 8192}
"""The default limit on tokens per forward pass, without and with a GPU.

On a CPU, a product of 256 rows is as fast as one of 4,096 (87 GFLOP/s on one core), so a higher limit
would only take more memory: with 8,192 tokens, scoring takes a gigabyte more than training for a model
with 135 million weights.
"""


class SharedPromptModel(Protocol):
    """A model that reads batches of both layouts.

    `inner` is the transformers model, and `attends` is one of the attentions of attention.py. If
    `reads_targets` is true, the model needs batches with the positions that predict the tokens of the
    responses. A call of the model returns {"outputs": (G, K, N)}.
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


def default_tokens_at_once() -> int:
    """Return the default limit on tokens per forward pass on this machine."""
    return TOKENS_AT_ONCE[torch.cuda.is_available()]


@torch.no_grad()
def features_of(
    model: SharedPromptModel, groups: Sequence[TokenGroup], collator: Collator
) -> torch.Tensor:
    """Return the inputs of the decoder's head, (G, K, H) float32 on the CPU, in evaluation mode."""
    inputs = inputs_of(model, groups, collator)
    del inputs["present"]
    with evaluating(model):
        return model.features(**inputs).float().cpu()


@torch.no_grad()
def outputs_of(
    model: SharedPromptModel, groups: Sequence[TokenGroup], collator: Collator
) -> torch.Tensor:
    """Return the outputs of a batch, (G, K, N) float32 on the CPU, in evaluation mode."""
    inputs = inputs_of(model, groups, collator)
    with evaluating(model):
        return model(**inputs)["outputs"].float().cpu()


def score_all(
    model: SharedPromptModel,
    groups: Sequence[TokenGroup],
    collator: Collator,
    stop: StopSignal | None = None,
) -> list[np.ndarray]:
    """Return the outputs for the responses of each group, in order, as arrays (K, N).

    If memory runs out, the limit on tokens per forward pass is halved. Raises Stopped if the run was
    asked to stop.
    """
    sizes, at_once = [collator.tokens(group) for group in groups], default_tokens_at_once()
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
    # The model does not read the signals. Without them, groups of different kinds fit in one batch.
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

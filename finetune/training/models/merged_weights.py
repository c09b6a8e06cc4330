"""Adding adapters to the weights of their base model. If necessary, tied embeddings are separated.

Legend: T positions of a text, V vocabulary. Tensors carry their shape as a suffix: logps_TV.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

LARGEST_SHARE = 0.05
"""The largest difference between a merged and the tuned model, as a share of the adapter's effect."""
PROBES, PROBE_TOKENS = 4, 32
"""The number of texts of random tokens on which a merge in memory is checked, and of their tokens."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of base and adapter for texts, and the effect of the adapter, ‖tuned − base‖."""

    texts: list[torch.Tensor]
    tuned: list[torch.Tensor]
    effect: float

    @classmethod
    def of(cls, model: Any) -> "Predictions":
        """Return the predictions of a model with an adapter for the probes. Costs two short passes each."""
        words = model.get_base_model().get_input_embeddings().num_embeddings
        generator = torch.Generator().manual_seed(0)
        texts = list(torch.randint(words, (PROBES, PROBE_TOKENS), generator=generator))
        tuned = [log_probabilities(model, ids) for ids in texts]
        with model.disable_adapter():
            base = [log_probabilities(model, ids) for ids in texts]
        return cls(texts, tuned, _mean_distance(tuned, base))

    def keep_adapter(self, merged: Any) -> bool:
        """Return whether a merged model predicts the same, except for LARGEST_SHARE of the effect."""
        predicted = [log_probabilities(merged, ids) for ids in self.texts]
        return _mean_distance(self.tuned, predicted) <= LARGEST_SHARE * self.effect


def _mean_distance(tuned: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    squares = [distance(a, b) ** 2 for a, b in zip(tuned, other, strict=True)]
    return float((sum(squares) / len(squares)) ** 0.5)


@torch.no_grad()
def log_probabilities(
    model: Any, ids: torch.Tensor, positions: torch.Tensor | slice = slice(None)
) -> torch.Tensor:
    """Return the log-probabilities of the next token at T positions of one text, (T, V)."""
    logits_TV = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0, positions]
    return logits_TV.float().log_softmax(dim=-1)


def distance(tuned_TV: torch.Tensor, other_TV: torch.Tensor) -> float:
    """Return ‖other − tuned‖: the root mean square of the differences of log-probabilities.

    The mean is over the positions. At each position, it is over the vocabulary, weighted by the
    probabilities of the tuned model. With equal weights, the result would mostly be the rounding of
    tokens that never occur.
    """
    weight_TV = tuned_TV.exp()
    squares_TV = torch.where(weight_TV > 0, weight_TV * (other_TV - tuned_TV) ** 2, 0.0)
    return float(squares_TV.sum(dim=-1).mean().sqrt())


def with_merged_weights(model: Any) -> tuple[Any, bool]:
    """Return the model with the adapter in its weights, and whether its embeddings were separated.

    Many models use the same matrix to read and to write tokens. If an adapter changes only one of the
    two uses, adding it to the shared matrix would change both. In that case, each use gets its own
    matrix, and the merged model has more weights than its base.
    """
    untied = separate_tied_embeddings(model)
    merged = model.merge_and_unload(safe_merge=True)
    if untied:
        for part in (merged.config, merged.config.get_text_config()):
            part.tie_word_embeddings = False
    return merged, untied


def separate_tied_embeddings(model: Any) -> bool:
    """Give the head its own matrix if an adapter changes a shared matrix. Return whether it did."""
    base = model.get_base_model()
    parts = (base.get_input_embeddings(), base.get_output_embeddings())
    tied = bool(base.config.get_text_config().tie_word_embeddings)
    if not tied or None in parts or not any(map(_is_adapted, parts)):
        return False
    reads, writes = map(_without_adapter, parts)
    if writes.weight.data_ptr() == reads.weight.data_ptr():
        writes.weight = nn.Parameter(writes.weight.detach().clone(), requires_grad=False)
    return True


def _is_adapted(module: nn.Module) -> bool:
    return isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)


def _without_adapter(module: Any) -> Any:
    if isinstance(module, ModulesToSaveWrapper):
        return module.original_module
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module

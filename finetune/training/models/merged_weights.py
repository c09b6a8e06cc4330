"""Adapters added to the weights of their base model, with tied embeddings untied where necessary."""

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn


def with_merged_weights(model: Any) -> tuple[Any, bool]:
    """Return the plain model with the adapter in its weights, and whether its embeddings were untied.

    Many models use one matrix both to read and to write tokens. An adapter on only one of the two
    uses would change both once it is added to the shared matrix. In that case each use gets its own
    matrix, so the merged model has more weights than its base.
    """
    untied = separate_tied_embeddings(model)
    merged = model.merge_and_unload(safe_merge=True)
    if untied:
        for part in (merged.config, merged.config.get_text_config()):
            part.tie_word_embeddings = False
    return merged, untied


def separate_tied_embeddings(model: Any) -> bool:
    """Give the head its own matrix if an adapter changes a shared one. Return whether it does."""
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

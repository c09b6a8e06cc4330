"""Adding adapters to the weights of their base model. If necessary, tied embeddings are separated."""

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn


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

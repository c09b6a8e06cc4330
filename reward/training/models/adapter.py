"""The weights that a run trains: LoRA matrices in the backbone, and all weights of new layers.

A head is always new. The pooling layer of an encoder is new if the checkpoint has none. New layers
begin with random weights. If such a layer were frozen, it would stay random. If it were not saved with
the adapter, it would have other random weights each time the model is loaded.
"""

from collections.abc import Iterable
from typing import Any

from peft import TaskType, get_peft_model
from torch import nn

from recipes.models.adapter import ALL_LINEAR, lora_config
from reward.settings import RewardConfig


def with_adapter(base: Any, config: RewardConfig, fresh: Iterable[str]) -> Any:
    """Add an adapter to the base. `fresh` names the weights that the checkpoint lacks."""
    whole = trained_whole(base, fresh)
    lora = lora_config(
        config,
        TaskType.SEQ_CLS,
        config.base_model,
        targets=ALL_LINEAR if hasattr(base, "score") else in_backbone(base, whole),
        dropout=config.lora_dropout,
        whole=whole,
    )
    return get_peft_model(base, lora)


def trained_whole(base: Any, fresh: Iterable[str]) -> list[str]:
    """Return the names of the modules of the head, and of backbone modules with new weights."""
    head = [name for name, part in base.named_children() if name != base.base_model_prefix]
    trained = [name for name in head if any(True for _ in base.get_submodule(name).parameters())]
    within = {
        key.rpartition(".")[0] for key in fresh if key.startswith(f"{base.base_model_prefix}.")
    }
    return [*trained, *sorted(within)]


def in_backbone(base: Any, whole: list[str]) -> list[str]:
    """Return the full names of the linear layers of an encoder.

    Short names do not suffice, because some layers in the head have the same.
    """
    prefix = f"{base.base_model_prefix}."
    linear = (name for name, part in base.named_modules() if isinstance(part, nn.Linear))
    return [name for name in linear if name.startswith(prefix) and name not in whole]

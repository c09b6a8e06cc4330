"""What a run trains: LoRA matrices in the backbone, and whole every layer that nobody trained before.

The head is always fresh. So is an encoder's pooling layer where its checkpoint was made without one;
frozen it would stay random, and left out of the adapter it would be another one after each loading.
"""

from collections.abc import Iterable
from typing import Any

from peft import LoraConfig, TaskType, get_peft_model
from torch import nn

from reward.settings import RewardConfig


def with_adapter(
    base: Any, config: RewardConfig, fresh: Iterable[str], name: str, revision: str | None
) -> Any:
    """`fresh` names the weights that were not in the checkpoint of `name` at `revision`."""
    whole = trained_whole(base, fresh)
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if hasattr(base, "score") else in_backbone(base, whole),
        modules_to_save=whole,
        base_model_name_or_path=name,
        revision=revision,
    )
    return get_peft_model(base, lora)


def trained_whole(base: Any, fresh: Iterable[str]) -> list[str]:
    """Names of the head's modules and of those in the backbone with fresh weights."""
    head = [name for name, part in base.named_children() if name != base.base_model_prefix]
    trained = [name for name in head if any(True for _ in base.get_submodule(name).parameters())]
    within = {
        key.rpartition(".")[0] for key in fresh if key.startswith(f"{base.base_model_prefix}.")
    }
    return [*trained, *sorted(within)]


def in_backbone(base: Any, whole: list[str]) -> list[str]:
    """An encoder's linear layers under their full names: the head has some called alike."""
    prefix = f"{base.base_model_prefix}."
    found = (name for name, part in base.named_modules() if isinstance(part, nn.Linear))
    return [name for name in found if name.startswith(prefix) and name not in whole]

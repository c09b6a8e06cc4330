"""LoRA adapters: their configuration from the settings of a run, and their weights in checkpoints.

lora    W + (α/r)·B·A (Hu et al. 2021, arXiv:2106.09685)
rslora  W + (α/√r)·B·A. The update keeps its size at high ranks (Kalajdzievski 2023,
        arXiv:2312.03732).
dora    W + (α/r)·B·A, with a trained length for each row (Liu et al. 2024, arXiv:2402.09353)
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, TaskType
from torch import nn

from recipes.errors import RecipeError
from recipes.models.references import split_reference
from recipes.training_settings import TrainingSettings

ALL_LINEAR = "all-linear"


def lora_config(
    settings: TrainingSettings,
    task: TaskType,
    reference: str,
    *,
    targets: str | Sequence[str] = ALL_LINEAR,
    dropout: float = 0.0,
    whole: Sequence[str] = (),
) -> LoraConfig:
    """Return the configuration of a new adapter for the base model `reference`.

    `targets` are the layers that get LoRA matrices. `whole` are the layers of which all weights are
    trained.
    """
    name, revision = split_reference(reference)
    return LoraConfig(
        task_type=task,
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=dropout,
        use_rslora=settings.lora_variant == "rslora",
        use_dora=settings.lora_variant == "dora",
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(whole) or None,
        base_model_name_or_path=name,
        revision=revision,
    )


def named_layers(text: str) -> str | list[str]:
    """Return the layers that are listed in a setting, separated by commas, or ALL_LINEAR."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return ALL_LINEAR if names == [ALL_LINEAR] else names


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the trained weights on the CPU, for `restore`."""
    return {
        name: weight.detach().to("cpu", copy=True)
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@torch.no_grad()
def restore(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Set the trained weights to the result of `trained_weights`, and clear their gradients."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.copy_(weights[name])
            weight.grad = None


# --- checkpoints ------------------------------------------------------------------------------------


def save_trained_weights_only(model: nn.Module) -> None:
    """Leave the frozen weights out of checkpoints, because the base model has them."""
    model.register_state_dict_post_hook(_drop_frozen)
    model.register_load_state_dict_post_hook(_allow_missing_frozen)


def _drop_frozen(module: nn.Module, state: dict, prefix: str, metadata: Any) -> None:
    for name in _frozen(module):
        state.pop(prefix + name, None)


def _allow_missing_frozen(module: nn.Module, keys: Any) -> None:
    frozen = _frozen(module)
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]
    if keys.missing_keys:
        raise RecipeError(
            f"The checkpoint lacks {keys.missing_keys[0]}, so it belongs to a different model."
        )


def _frozen(module: nn.Module) -> set[str]:
    return {name for name, weight in module.named_parameters() if not weight.requires_grad}

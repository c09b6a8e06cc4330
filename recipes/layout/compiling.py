"""torch.compile applied to each layer: all layers share one compilation, for inputs of any length."""

from typing import Any

import torch
from torch import nn

from recipes.machine.checks import require_triton


def compile_layers(model: nn.Module, **options: Any) -> int:
    """Compile each layer of the backbone in place, and return the number of layers.

    Names of weights stay the same.

    `options` are torch.compile's. Compilation happens at the first forward pass. A layer that
    cannot be compiled as a whole is compiled in parts.
    """
    if torch.cuda.is_available():
        require_triton()
    layers = _layers(model)
    for layer in layers:
        layer.compile(dynamic=True, **options)
    return len(layers)


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the longest list of modules of one class: in all families, the stack of layers."""
    stacks = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(part) for part in module}) == 1
    ]
    return max(stacks, key=len, default=[])

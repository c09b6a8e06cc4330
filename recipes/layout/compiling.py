"""Compilation of a model's layers with torch.compile.

All layers share one compilation, which works for inputs of any length.
"""

from typing import Any

import torch
from torch import nn

from recipes.machine.checks import require_triton


def compile_layers(model: nn.Module, **options: Any) -> int:
    """Compile each layer of the backbone in place, and return the number of layers.

    The names of the weights stay the same. `options` are those of torch.compile. The layers are
    compiled during the first forward pass. A layer that cannot be compiled as a whole is compiled in
    parts.
    """
    if torch.cuda.is_available():
        require_triton()
    layers = _layers(model)
    for layer in layers:
        layer.compile(dynamic=True, **options)
    return len(layers)


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers: in all families, the longest list of modules of the same class."""
    stacks = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(part) for part in module}) == 1
    ]
    return max(stacks, key=len, default=[])

"""torch.compile, layer by layer: one compilation serves all layers, and lengths are left open."""

from typing import Any

from torch import nn


def compile_layers(model: nn.Module, **options: Any) -> int:
    """Compile each layer of the backbone in place; names of weights stay. → how many layers

    `options` are torch.compile's. What is compiled is made at the first forward pass. A layer that
    cannot be compiled whole is compiled in parts.
    """
    layers = _layers(model)
    for layer in layers:
        layer.compile(dynamic=True, **options)
    return len(layers)


def _layers(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules of one class, which in every family is the stack of layers."""
    stacks = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(part) for part in module}) == 1
    ]
    return max(stacks, key=len, default=[])

"""Linear layers of a served model, whose rows can have different LoRA adapters.

For a batch with several adapters, PEFT's own `adapter_names` adds about 0.3 ms per layer, because it
selects the rows by lists of indices. With the 210 adapted layers of SmolLM2-135M on two cores, that was as
much time as the rest of the step. Here, the rows of an adapter are neighbours, so a slice selects them.

Legend: N rows, T tokens, I inputs, O outputs, R rank of an adapter.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

MOST_FEW = 6
"""From two to this number of rows of float32 numbers, W xᵀ takes less time than x Wᵀ on a CPU.

Measured with the layers of SmolLM2-135M on one core: for 2, 4 and 8 rows, x Wᵀ takes 82, 69 and 80 ms,
and W xᵀ takes 31, 52 and 81 ms.
"""


MOST_INT8 = 6
"""Up to this number of rows, 8-bit weights take less time than bfloat16 ones: the CPU reads half as much."""
INT8_COLUMNS = 32
"""The kernel for 8-bit weights reads this many inputs at a time."""


class CannotBatch(Exception):  # noqa: N818
    """The model or the adapter does not support batches. The text is a sentence with the reason."""


class RowAdapter(NamedTuple):
    """The weights of an adapter for one layer, and the rows of the batch that use it."""

    rows: slice
    A_RI: torch.Tensor
    B_OR: torch.Tensor
    scaling: float


class ServedLinear(nn.Linear):
    """A linear layer. `adapters` are those of the rows of the current batch.

    `int8_OI` and `scales_O` are its weights rounded to 8 bits, if there are any. They are used for few rows,
    and the weights themselves for prompts.
    """

    adapters: Sequence[RowAdapter] = ()
    int8_OI: torch.Tensor | None  # noqa: N815  # the legend names the axes
    scales_O: torch.Tensor | None  # noqa: N815

    def forward(self, x_NTI: torch.Tensor) -> torch.Tensor:
        y_NTO = self._product(x_NTI)
        for rows, A_RI, B_OR, scaling in self.adapters:
            change = x_NTI[rows].to(A_RI.dtype) @ A_RI.T @ B_OR.T * scaling
            y_NTO[rows] += change.to(y_NTO.dtype)
        return y_NTO

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // self.in_features
        if self.int8_OI is not None and rows <= MOST_INT8:
            few = x.reshape(rows, self.in_features)
            product = torch._weight_int8pack_mm(few, self.int8_OI, self.scales_O)
        elif 2 <= rows <= MOST_FEW and x.dtype == torch.float32 and x.device.type == "cpu":
            product = (self.weight @ x.reshape(rows, self.in_features).T).T
        else:
            return super().forward(x)
        product = product.reshape(*x.shape[:-1], self.out_features)
        return product if self.bias is None else product + self.bias


def serve_linear_layers(network: nn.Module) -> None:
    """Turn the linear layers of a network into ServedLinear."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = ServedLinear
            module.register_buffer("int8_OI", None, persistent=False)
            module.register_buffer("scales_O", None, persistent=False)


def has_fast_int8() -> bool:
    """Return whether this machine computes bfloat16 in hardware on its CPU, and has no GPU.

    Without such instructions, 8-bit weights take longer than float32 ones.
    """
    return not torch.cuda.is_available() and bool(torch.cpu._is_avx512_bf16_supported())


def add_int8_weights(network: nn.Module) -> bool:
    """Give the linear layers of a bfloat16 network 8-bit weights. Return whether any layer got them.

    Each output has a scale of its own, so the largest weight of the output is 127.
    """
    added = False
    for module in network.modules():
        if not isinstance(module, ServedLinear) or module.in_features % INT8_COLUMNS:
            continue
        weight_OI = module.weight.detach().float()
        scales_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        module.int8_OI = (weight_OI / scales_O1).round().to(torch.int8)
        module.scales_O = scales_O1[:, 0].to(torch.bfloat16)
        added = True
    return added


def set_row_adapters(peft: Any, labels: Sequence[str]) -> None:
    """Give each row of the next batches the adapter with its label. "" is the base.

    Equal labels must be neighbours. Raises CannotBatch for an adapter that is not a plain LoRA adapter of
    linear layers.
    """
    clear_row_adapters(peft)
    layers = [module for module in peft.modules() if isinstance(module, BaseTunerLayer)]
    if any(isinstance(module, AuxiliaryTrainingWrapper) for module in peft.modules()):
        raise CannotBatch("An adapter changes more than linear layers.")
    for label in dict.fromkeys(filter(None, labels)):
        first = labels.index(label)
        rows = slice(first, first + labels.count(label))
        for layer in layers:
            if adapter := _row_adapter(layer, label, rows):
                layer.base_layer.adapters = (*layer.base_layer.adapters, adapter)


def clear_row_adapters(peft: Any) -> None:
    for module in peft.modules():
        if isinstance(module, ServedLinear):
            module.adapters = ()


def _row_adapter(layer: Any, label: str, rows: slice) -> RowAdapter | None:
    """Return the weights of the adapter for a layer, or None if it does not change this layer."""
    if not isinstance(layer, lora.LoraLayer):
        raise CannotBatch("An adapter is not a LoRA adapter.")
    if label in layer.lora_embedding_A:
        raise CannotBatch("The adapter changes embeddings.")
    if label not in layer.lora_A:
        return None
    is_plain = type(layer) is lora.Linear and not layer.lora_variant.get(label)
    if not is_plain or not isinstance(layer.base_layer, ServedLinear) or layer.lora_bias[label]:
        raise CannotBatch("The adapter is not a plain LoRA adapter of linear layers.")
    weights = layer.lora_A[label].weight, layer.lora_B[label].weight
    return RowAdapter(rows, *weights, layer.scaling[label])

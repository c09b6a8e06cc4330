"""A cache of keys and values whose rows can be copied, removed and extended at little cost.

Legend: B rows, H heads, T tokens, D size of a head. Tensors carry their shape as a suffix: keys_BHTD.
"""

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""The number of tokens that a buffer has room for beyond those in it when it is made."""


class GrowingLayer(DynamicLayer):
    """A layer that stores tokens in a buffer with room for more.

    DynamicLayer copies all tokens for each new one. A buffer copies them once for `ROOM` new ones.
    """

    keys: torch.Tensor
    values: torch.Tensor
    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of further tokens, and return those of all tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            self._buffers = (
                _with_room(self.keys, key_states, begin, end),
                _with_room(self.values, value_states, begin, end),
            )
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., begin:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._buffers = None  # of the rows before

    def reset(self) -> None:
        super().reset()
        self._buffers = None


def _with_room(
    old_BHTD: torch.Tensor, new_BHTD: torch.Tensor, begin: int, end: int
) -> torch.Tensor:
    """Return a buffer that begins with the `begin` old tokens and has room for `end` and more."""
    rows, heads, _, size = new_BHTD.shape
    buffer = new_BHTD.new_empty((rows, heads, end + ROOM, size))
    if begin:
        buffer[..., :begin, :] = old_BHTD
    return buffer


class GrowingCache(DynamicCache):
    """The cache of a model, with a GrowingLayer for each layer that attends to all earlier tokens.

    Other layers, such as those with a sliding window or linear attention, are those of transformers.
    """

    layers: list[Any]

    def __init__(self, config: Any):
        super().__init__(config=config.get_text_config(decoder=True))
        if not self.layers:
            self.layer_class_to_replicate = GrowingLayer
        self.layers = [
            GrowingLayer() if type(layer) is DynamicLayer else layer for layer in self.layers
        ]

    def select(self, indices: list[int]) -> None:
        """Keep the rows with these indices, in this order. An index may occur several times."""
        self.reorder_cache(torch.tensor(indices))  # each layer moves the indices to its device

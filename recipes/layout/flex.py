"""FlexAttention for rows of the shared layout on CUDA. It skips tiles that are fully masked.

FlexAttention is described by Dong et al. 2024, arXiv:2412.05496.

The mask is not a tensor of T² numbers. It consists of a rule (`collate.can_attend`) and a list of
the tiles of 128 × 128 positions that are not fully masked. The list is computed from the numbers of
the groups and segments in T · T/128 steps. Rows are padded to whole tiles. The kernel is compiled
once for all lengths. It is compiled a second time if the first batch happens to have as many tiles as
the model has heads.

The attention is registered with transformers as NAME. It computes SDPA if it is called without a
block mask.

Legend: B rows, T tokens per row, N = T/128 tiles, D dimensions of a head.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from recipes.layout.collate import PROMPT, can_attend

NAME = "tiebreak_flex"
TILE = 128
MIN_TILES = 2
"""The minimum number of tiles per row. torch.compile would specialise a dimension of size 1."""


def whole_tiles(row: torch.Tensor, fill: int) -> torch.Tensor:  # (B, T) → (B, 128·N)
    """Pad rows on the right to a whole number of tiles."""
    tiles = max(MIN_TILES, -(-row.shape[1] // TILE))
    return F.pad(row, (0, tiles * TILE - row.shape[1]), value=fill)


def tile_mask(segment_ids: torch.Tensor, group_ids: torch.Tensor) -> BlockMask:
    """Return the block mask of rows of whole tiles."""
    segments, groups = segment_ids.contiguous(), group_ids.contiguous()

    def mask_mod(
        b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, kv: torch.Tensor
    ) -> torch.Tensor:
        return can_attend((groups[b, q], segments[b, q], q), (groups[b, kv], segments[b, kv], kv))

    counts = count_in_tiles(segments, groups)[:, None]  # (B, 1, N, N)
    full = counts == TILE * TILE
    partly = (counts > 0) & ~full
    return BlockMask.from_kv_blocks(
        *_tile_indices(partly), *_tile_indices(full), BLOCK_SIZE=TILE, mask_mod=mask_mod
    )


def _tile_indices(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number of set tiles in each line, and the indices of its tiles, both as int32.

    The indices of the set tiles come first.
    """
    order = torch.argsort(tiles.int(), dim=-1, descending=True, stable=True)
    return tiles.sum(dim=-1, dtype=torch.int32), order.int()


def count_in_tiles(segment_ids: torch.Tensor, group_ids: torch.Tensor) -> torch.Tensor:
    """Return the number of positions in each tile that `can_attend` allows, (B, N, N).

    A token attends to two spans of its row: the prompt of its group, and its own segment up to
    itself. The function counts the overlaps of these spans with the tiles, so it needs no T² mask.
    """
    length = segment_ids.shape[1]
    positions = torch.arange(length, device=segment_ids.device).expand_as(segment_ids)  # (B, T)
    in_prompt = segment_ids == PROMPT  # (B, T)
    group_start = _starts(group_ids, positions)  # (B, T)
    own_start = torch.maximum(group_start, _starts(segment_ids, positions))  # (B, T)
    prompts = in_prompt.cumsum(dim=1)  # (B, T): prompt tokens up to and including each position
    before = prompts.gather(1, group_start) - in_prompt.gather(1, group_start).int()
    prompt_end = group_start + prompts - before
    own_start = torch.where(in_prompt, positions + 1, own_start)  # prompt tokens: counted already
    counts = _overlap(group_start, prompt_end) + _overlap(own_start, positions + 1)  # (B, T, N)
    return counts.unflatten(1, (length // TILE, TILE)).sum(dim=2)  # (B, N, N)


def _starts(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:  # (B, T) → (B, T)
    """Return, for each position, where its span of equal numbers begins."""
    changed = F.pad(ids[:, 1:] != ids[:, :-1], (1, 0), value=False)
    return torch.where(changed, positions, 0).cummax(dim=1).values


def _overlap(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:  # (B, T) → (B, T, N)
    """Return the length of the overlap of each span [start, end) with each tile."""
    first = torch.arange(0, start.shape[1], TILE, device=start.device)
    low = torch.maximum(start[..., None], first)
    return (torch.minimum(end[..., None], first + TILE) - low).clamp(min=0)


@cache
def compiled() -> Any:
    """Compile FlexAttention at first use, not at import."""
    return torch.compile(flex_attention, dynamic=True)


def tiles_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, heads, T, D)
    key: torch.Tensor,  # (B, heads or fewer, T, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | BlockMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return the output of the attention, (B, T, heads, D).

    FlexAttention has no dropout, so `suits` rejects models that need it.
    """
    if not isinstance(attention_mask, BlockMask):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    query, key, value = same_dtype(query, key, value)
    # Inside a compiled layer, it is compiled with the layer.
    attend = flex_attention if torch.compiler.is_compiling() else compiled()
    grouped = query.shape[1] != key.shape[1]
    out = attend(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous(), None


def same_dtype(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors in the same number format.

    Autocast converts the inputs of SDPA, but not those of FlexAttention. After rotary embeddings in
    float32, queries and keys have a different format than values.
    """
    kind = tensors[-1].device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else tensors[-1].dtype
    return [tensor.to(dtype) for tensor in tensors]


def suits(config: Any) -> bool:
    """Return whether FlexAttention supports the model's attention unchanged."""
    text = config.get_text_config()
    return not any(
        getattr(text, name, None) for name in ("attention_dropout", "attn_logit_softcapping")
    )


def register() -> None:
    """Register NAME with transformers. This function can be called more than once."""
    AttentionInterface.register(NAME, tiles_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)

"""FlexAttention over rows of the shared layout: only tiles in which something is seen are computed.

For CUDA. The mask is not a tensor of T² numbers but a rule (`layout.may_see`) and a list of the tiles
of 128 × 128 places where it lets anything through, found in T · T/128 steps from the numbers of groups
and segments. Rows are padded to whole tiles, and the kernel is compiled once with lengths left open,
so a batch of another shape compiles nothing (once more at most, if the first batch happens to have as
many tiles as the model has heads). FlexAttention: Dong et al. 2024, arXiv:2412.05496.
Registered with transformers under NAME; where it gets no block mask it is SDPA.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from recipes.layout.collate import PROMPT, may_see

NAME = "tiebreak_flex"
TILE = 128
FEWEST_TILES = 2
"""A dimension of one is compiled apart; two tiles at least need one kernel for all lengths."""


def whole_tiles(row: torch.Tensor, fill: int) -> torch.Tensor:
    """Padded on the right to a whole number of tiles.  (B, T) → (B, T rounded up)"""
    tiles = max(FEWEST_TILES, -(-row.shape[1] // TILE))
    return F.pad(row, (0, tiles * TILE - row.shape[1]), value=fill)


def tile_mask(segment_ids: torch.Tensor, group_ids: torch.Tensor) -> BlockMask:
    """The block mask of rows of whole tiles, (B, T) each."""
    segments, groups = segment_ids.contiguous(), group_ids.contiguous()

    def mask_mod(
        b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, kv: torch.Tensor
    ) -> torch.Tensor:
        return may_see((groups[b, q], segments[b, q], q), (groups[b, kv], segments[b, kv], kv))

    seen = seen_in_tiles(segments, groups)[:, None]  # (B, 1, T/128, T/128)
    full = seen == TILE * TILE
    partly = (seen > 0) & ~full
    return BlockMask.from_kv_blocks(
        *_listed(partly), *_listed(full), BLOCK_SIZE=TILE, mask_mod=mask_mod
    )


def _listed(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(…, N, N) bool → how many of each line (…, N), and which, these first (…, N, N); both int32"""
    order = torch.argsort(tiles.int(), dim=-1, descending=True, stable=True)
    return tiles.sum(dim=-1, dtype=torch.int32), order.int()


def seen_in_tiles(segment_ids: torch.Tensor, group_ids: torch.Tensor) -> torch.Tensor:
    """How many of a tile's places `may_see` allows.  (B, T), (B, T) → (B, T/128, T/128)

    What a token sees is two stretches of its row: the prompt of its group, and its own segment up to
    itself. So overlaps of stretches with tiles are counted, and no T² mask is made.
    """
    length = segment_ids.shape[1]
    places = torch.arange(length, device=segment_ids.device).expand_as(segment_ids)
    group_start = _starts(group_ids, places)
    own_start = torch.maximum(group_start, _starts(segment_ids, places))
    of_prompt = (segment_ids == PROMPT).cumsum(dim=1)
    before = of_prompt.gather(1, group_start) - (segment_ids == PROMPT).gather(1, group_start).int()
    prompt_end = group_start + of_prompt - before
    own_start = torch.where(segment_ids == PROMPT, places + 1, own_start)  # counted already
    counted = _overlap(group_start, prompt_end) + _overlap(own_start, places + 1)  # (B, T, T/128)
    return counted.unflatten(1, (length // TILE, TILE)).sum(dim=2)


def _starts(ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Where the stretch of equal numbers around each place begins.  (B, T) → (B, T)"""
    changed = F.pad(ids[:, 1:] != ids[:, :-1], (1, 0), value=False)
    return torch.where(changed, places, 0).cummax(dim=1).values


def _overlap(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Of stretches [start, end) with each tile.  (B, T) → (B, T, T/128)"""
    first = torch.arange(0, start.shape[1], TILE, device=start.device)
    low = torch.maximum(start[..., None], first)
    return (torch.minimum(end[..., None], first + TILE) - low).clamp(min=0)


@cache
def compiled() -> Any:
    """Made when first needed: importing this compiles nothing."""
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
    """→ (B, T, heads, D). There is no dropout in FlexAttention: `suits` keeps models with it away."""
    if not isinstance(attention_mask, BlockMask):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    query, key, value = alike(query, key, value)
    # Inside a compiled layer it is compiled with the layer.
    attend = flex_attention if torch.compiler.is_compiling() else compiled()
    grouped = query.shape[1] != key.shape[1]
    out = attend(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous(), None


def alike(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """In one number format: autocast knows SDPA's inputs but not FlexAttention's, and rotating
    queries and keys by float32 angles leaves them in another than the values.
    """
    kind = tensors[-1].device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else tensors[-1].dtype
    return [tensor.to(dtype) for tensor in tensors]


def suits(config: Any) -> bool:
    """Whether a model's attention is one that FlexAttention computes as it is."""
    text = config.get_text_config()
    return not any(
        getattr(text, name, None) for name in ("attention_dropout", "attn_logit_softcapping")
    )


def register() -> None:
    """Make NAME known to transformers; calling it twice does no harm."""
    AttentionInterface.register(NAME, tiles_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)

"""How the shared layout is attended to, and on the CPU how: piece by piece.

pieces   CPU. This module's: the prompt attends to itself and each response to the prompt and itself,
         each in a call of its own, so the empty blocks cost nothing and no mask of the row exists.
tiles    CUDA. FlexAttention, see flex.py.
dense    Where neither works: a mask of all places of a row through the family's own attention.

The block mask is mostly empty: of (P + K·R)² places a dense mask computes, P²/2 + K·R·(P + R/2) are
looked at. So the first two take several groups in a row at no further cost, and dense does not.
Pieces are registered with transformers under NAME; where they get no `pieces` they are SDPA.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from recipes.layout import flex
from recipes.layout.collate import PADDING, Batch, block_mask

NAME = "tiebreak_pieces"
PIECES, TILES, DENSE = "pieces", "tiles", "dense"


def best_for(device: str, config: Any) -> str:
    """PIECES, TILES or DENSE for a model of this configuration on `cpu`, `cuda`, …"""
    if config._attn_implementation not in ("sdpa", NAME, flex.NAME):
        return DENSE
    if device == "cpu":
        return PIECES
    return TILES if device == "cuda" and flex.suits(config) else DENSE


def attend(base: Any, device: str) -> None:
    """Give a model that uses SDPA the attention that is best on the device, if its family allows it."""
    names = {PIECES: NAME, TILES: flex.NAME, DENSE: "sdpa"}
    best = best_for(device, base.config)
    if best == DENSE:
        return
    register()
    try:
        base.set_attn_implementation(names[best])
    except ValueError:  # the family has an attention of its own
        base.set_attn_implementation("sdpa")


def way_of(config: Any) -> str:
    """What `attend` chose."""
    return {NAME: PIECES, flex.NAME: TILES}.get(config._attn_implementation, DENSE)


def usable(way: str, device: str) -> str:
    """FlexAttention has no backward pass off the GPU, should the model have come to lie elsewhere."""
    return DENSE if way == TILES and device != "cuda" else way


def inputs_of(way: str, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
    """What the backbone takes for a batch of the shared layout: tokens, positions and the mask.

    A mask of four dimensions keeps the family from making one of its own.
    """
    tokens = {name: batch[name] for name in ("input_ids", "position_ids")}
    segments, groups = batch["segment_ids"], batch["group_ids"]
    if way == DENSE:
        return {**tokens, "attention_mask": block_mask(segments, groups, dtype)}
    if way == TILES:
        tokens = {name: flex.whole_tiles(values, 0) for name, values in tokens.items()}
        segments, groups = (flex.whole_tiles(values, PADDING) for values in (segments, groups))
        return {**tokens, "attention_mask": flex.tile_mask(segments, groups)}
    nothing = torch.zeros(1, 1, 1, 1, dtype=dtype, device=segments.device)
    pieces = cut_rows(batch["lengths"].tolist(), batch["placed"].tolist(), like=nothing)
    return {**tokens, "attention_mask": nothing, "pieces": pieces}


@dataclass(frozen=True)
class Pieces:
    """Each row's groups, each as its lengths, prompt first, and the additive mask of each (response,
    prompt) length."""

    rows: list[list[list[int]]]
    masks: dict[tuple[int, int], torch.Tensor]


def cut_rows(lengths: Sequence[Sequence[int]], placed: Sequence[int], like: torch.Tensor) -> Pieces:
    """Lengths (G, K + 1): a prompt's, which may be empty, then those of its responses, zero where a
    group has fewer; placed (G,), the row of each group.
    """
    groups = [[prompt, *(n for n in responses if n)] for prompt, *responses in lengths]
    rows: list[list[list[int]]] = [[] for _ in range(max(placed) + 1)]
    for row, group in zip(placed, groups, strict=True):
        rows[row].append(group)
    pairs = {(response, prompt) for prompt, *responses in groups for response in responses}
    return Pieces(rows, {pair: after_prompt(*pair, like) for pair in pairs})


def after_prompt(response: int, prompt: int, like: torch.Tensor) -> torch.Tensor:
    """Each token of a response sees the prompt and what came before it.  → (R, P + R)"""
    hidden = torch.ones(response, prompt + response, dtype=torch.bool, device=like.device)
    mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(hidden.triu(prompt + 1), float("-inf"))


@torch.compiler.disable  # its lengths are numbers, of which each would be compiled anew
def pieces_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, heads, T, D)
    key: torch.Tensor,  # (B, heads or fewer, T, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    pieces: Pieces | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """→ (B, T, heads, D), zero at padding"""
    if pieces is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    repeats = query.shape[1] // key.shape[1]  # grouped-query attention
    if repeats > 1:
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    rows = [
        _attend_row(q, k, v, lengths, pieces.masks, dropout_p=dropout, scale=scaling)
        for q, k, v, lengths in zip(
            query.split(1), key.split(1), value.split(1), pieces.rows, strict=True
        )
    ]
    return torch.cat(rows).transpose(1, 2).contiguous(), None


def _attend_row(
    query: torch.Tensor,  # (1, heads, T, D)
    key: torch.Tensor,
    value: torch.Tensor,
    groups: list[list[int]],
    masks: dict[tuple[int, int], torch.Tensor],
    **options: Any,
) -> torch.Tensor:
    sizes = [length for lengths in groups for length in lengths]
    padding = query.shape[2] - sum(sizes)
    # One split and one join for the row: each is a copy, in the backward pass too.
    parts = zip(*(x.split([*sizes, padding], dim=2) for x in (query, key, value)), strict=True)
    out = []
    for prompt, *responses in groups:
        q, k, v = next(parts)
        if prompt:
            q = F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
        out.append(q)
        for response in responses:
            q_r, k_r, v_r = next(parts)
            seen, said = torch.cat([k, k_r], dim=2), torch.cat([v, v_r], dim=2)
            mask = masks[response, prompt]
            out.append(F.scaled_dot_product_attention(q_r, seen, said, attn_mask=mask, **options))
    return torch.cat([*out, torch.zeros_like(next(parts)[0])], dim=2)


def register() -> None:
    """Make both attentions known to transformers; calling it twice does no harm."""
    AttentionInterface.register(NAME, pieces_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    flex.register()

"""Attention over rows laid out [prompt][response 1]…[response K], piece by piece.

The block mask of the shared layout is mostly empty: of (P + K·R)² places a dense mask computes,
P²/2 + K·R·(P + R/2) are looked at. Here the prompt attends to itself and each response to the prompt
and itself, each in a call of its own, so the empty blocks cost nothing and no mask of the row exists.
Registered with transformers under NAME as an attention of its own; without `pieces` it is SDPA.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "tiebreak_pieces"


@dataclass(frozen=True)
class Pieces:
    """Each row's lengths, prompt first, and the additive mask of each (response, prompt) length."""

    rows: list[list[int]]
    masks: dict[tuple[int, int], torch.Tensor]


def cut_rows(lengths: Sequence[Sequence[int]], like: torch.Tensor) -> Pieces:
    """Lengths (G, K + 1), zero where a group has fewer responses."""
    rows = [[length for length in row if length] for row in lengths]
    pairs = {(response, prompt) for prompt, *responses in rows for response in responses}
    return Pieces(rows, {pair: after_prompt(*pair, like) for pair in pairs})


def after_prompt(response: int, prompt: int, like: torch.Tensor) -> torch.Tensor:
    """Each token of a response sees the prompt and what came before it.  → (R, P + R)"""
    hidden = torch.ones(response, prompt + response, dtype=torch.bool, device=like.device)
    mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(hidden.triu(prompt + 1), float("-inf"))


def pieces_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (G, heads, T, D)
    key: torch.Tensor,  # (G, heads or fewer, T, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    pieces: Pieces | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """→ (G, T, heads, D), zero at padding"""
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
    lengths: list[int],
    masks: dict[tuple[int, int], torch.Tensor],
    **options: Any,
) -> torch.Tensor:
    padding = query.shape[2] - sum(lengths)
    sizes = [*lengths, padding] if padding else lengths
    (q, *queries), (k, *keys), (v, *values) = (x.split(sizes, dim=2) for x in (query, key, value))
    out = [F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)]
    for length, q_r, k_r, v_r in zip(lengths[1:], queries, keys, values, strict=False):
        seen, said = torch.cat([k, k_r], dim=2), torch.cat([v, v_r], dim=2)
        mask = masks[length, lengths[0]]
        out.append(F.scaled_dot_product_attention(q_r, seen, said, attn_mask=mask, **options))
    if padding:
        out.append(torch.zeros_like(queries[-1]))
    return torch.cat(out, dim=2)


def register() -> None:
    """Make NAME known to transformers; calling it twice does no harm."""
    AttentionInterface.register(NAME, pieces_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)

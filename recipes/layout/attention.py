"""Attention for the shared layout: the choice of an implementation, and the one for the CPU.

pieces   Used on the CPU. Separate calls compute the prompt, which attends to itself, and each
         response, which attends to the prompt and to itself. Masked positions are not computed, and
         no mask of the whole row is built.
tiles    Used on CUDA: FlexAttention, in flex.py.
dense    Used otherwise: the attention of the model family, with a mask of all positions of a row.

Most of the block mask is empty. With a dense mask, (P + K·R)² positions are computed, although
tokens attend to only P²/2 + K·R·(P + R/2) of them. With `pieces` and `tiles`, a row can hold several
groups at no extra cost; with `dense` it cannot. `pieces` is registered with transformers as NAME. It
computes SDPA if it is called without the argument `pieces`.

Legend: B rows, T tokens in the longest row, D dimensions of a head, G groups, K responses per
group, P and R tokens of a prompt and a response.
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
from recipes.machine.checks import require_triton

NAME = "tiebreak_pieces"
PIECES, TILES, DENSE = "pieces", "tiles", "dense"


def best_for(device: str, config: Any) -> str:
    """Return PIECES, TILES or DENSE for a model of this configuration on `cpu`, `cuda`, …"""
    if config._attn_implementation not in ("sdpa", NAME, flex.NAME):
        return DENSE
    if device == "cpu":
        return PIECES
    return TILES if device == "cuda" and flex.suits(config) else DENSE


def set_attention(base: Any, device: str) -> None:
    """Set the best attention for the device, if the model uses SDPA and its family allows it."""
    names = {PIECES: NAME, TILES: flex.NAME, DENSE: "sdpa"}
    best = best_for(device, base.config)
    if best == DENSE:
        return
    if best == TILES:
        require_triton()
    register()
    try:
        base.set_attn_implementation(names[best])
    except ValueError:  # the family does not use transformers' attention interface
        base.set_attn_implementation("sdpa")


def attention_of(config: Any) -> str:
    """Return the attention chosen by `set_attention`."""
    return {NAME: PIECES, flex.NAME: TILES}.get(config._attn_implementation, DENSE)


def usable(way: str, device: str) -> str:
    """Return `way`, or DENSE if it is FlexAttention and there is no GPU.

    FlexAttention has no backward pass on the CPU.
    """
    return DENSE if way == TILES and device != "cuda" else way


def inputs_of(way: str, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
    """Return the backbone's inputs for a batch of the shared layout: tokens, positions and mask.

    The mask has four dimensions, so the family does not build its own.
    """
    tokens = {name: batch[name] for name in ("input_ids", "position_ids")}
    segments, groups = batch["segment_ids"], batch["group_ids"]
    if way == DENSE:
        return {**tokens, "attention_mask": block_mask(segments, groups, dtype)}
    if way == TILES:
        tokens = {name: flex.whole_tiles(values, 0) for name, values in tokens.items()}
        segments, groups = (flex.whole_tiles(values, PADDING) for values in (segments, groups))
        return {**tokens, "attention_mask": flex.tile_mask(segments, groups)}
    no_mask = torch.zeros(1, 1, 1, 1, dtype=dtype, device=segments.device)
    pieces = cut_rows(batch["lengths"].tolist(), batch["placed"].tolist(), like=no_mask)
    return {**tokens, "attention_mask": no_mask, "pieces": pieces}


@dataclass(frozen=True)
class Pieces:
    """The lengths of the prompts and responses in each row, and a mask for each pair of lengths.

    The masks are additive. Their keys are (length of the response, length of the prompt).
    """

    rows: list[list[list[int]]]
    masks: dict[tuple[int, int], torch.Tensor]


def cut_rows(
    lengths: Sequence[Sequence[int]],  # (G, K + 1): a prompt, then its responses
    placed: Sequence[int],  # (G,): the row of each group
    like: torch.Tensor,
) -> Pieces:
    """Return the pieces of the rows. Prompts and responses that are missing have length 0."""
    groups = [[prompt, *(n for n in responses if n)] for prompt, *responses in lengths]
    rows: list[list[list[int]]] = [[] for _ in range(max(placed) + 1)]
    for row, group in zip(placed, groups, strict=True):
        rows[row].append(group)
    pairs = {(response, prompt) for prompt, *responses in groups for response in responses}
    return Pieces(rows, {pair: after_prompt(*pair, like) for pair in pairs})


def after_prompt(response: int, prompt: int, like: torch.Tensor) -> torch.Tensor:
    """Return the mask that lets each token of a response attend to the prompt and earlier tokens."""
    hidden = torch.ones(response, prompt + response, dtype=torch.bool, device=like.device)
    mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)  # (R, P + R)
    return mask.masked_fill_(hidden.triu(prompt + 1), float("-inf"))


@torch.compiler.disable  # each new length, a Python number, would trigger a compilation
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
    """Return the output of the attention, (B, T, heads, D). It is zero at padding."""
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
    # Each split and each concatenation copies the row, in the backward pass too, so there is only
    # one of each per row.
    parts = zip(*(x.split([*sizes, padding], dim=2) for x in (query, key, value)), strict=True)
    out = []
    for prompt, *responses in groups:
        q, k, v = next(parts)
        if prompt:
            q = F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
        out.append(q)
        for response in responses:
            q_r, k_r, v_r = next(parts)
            keys, values = torch.cat([k, k_r], dim=2), torch.cat([v, v_r], dim=2)
            mask = masks[response, prompt]  # (R, P + R)
            out.append(F.scaled_dot_product_attention(q_r, keys, values, attn_mask=mask, **options))
    return torch.cat([*out, torch.zeros_like(next(parts)[0])], dim=2)


def register() -> None:
    """Register both attentions with transformers. This function can be called more than once."""
    AttentionInterface.register(NAME, pieces_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    flex.register()

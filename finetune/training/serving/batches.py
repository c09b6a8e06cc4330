"""One forward pass for the next tokens of several answers, with one or several adapters of a base.

Reading the weights takes most of the time of a small batch, so two answers together take little longer
than one. The answers are the rows of the batch, and each has one token in it. Attention is computed for
each row alone, with the row's own cache, so the rows need neither padding nor a mask. `linear.py` adds the
adapter of each row.

Some models cannot do this, for example because they do not use the attention functions of transformers.
So the first batch with a model is preceded by a check: two short texts must get the same logits together
as alone. An adapter that fails it is served alone, and the log has the reason.

Legend: N rows, H heads, D size of a head, V vocabulary. Tensors carry their shape as a suffix.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from finetune.training.serving.linear import CannotBatch
from finetune.training.serving.loaded import Base, Variant
from serving.server.engine import log

ATTENTION = "tiebreak_rows"
"""The name of `attention_of_rows` in transformers. Under a name without a mask function, no mask is made."""
PLAIN_LAYERS = {"full_attention", "sliding_attention"}
"""Types of layers in which the newest token may attend to everything in the cache of its layer."""
MOST_DIFFERENCE = {torch.float32: 1e-4}
"""The greatest difference of logits in the check, as a share of the largest logit."""
MOST_ROUNDING = 0.05
"""The same for 16-bit numbers, whose rounding depends on the size of a batch."""
TEXTS = [[5, 9, 4, 7, 6], [8, 3, 9]]
"""The tokens of the check. The lengths differ, so a row with the wrong position is noticed."""


class CacheOfRows:
    """The caches of the rows. Each row's keys and values are stored in its own cache."""

    is_compileable = False

    def __init__(self, caches: Sequence[DynamicCache]):
        self.caches = caches

    def update(
        self,
        keys_N1HD: torch.Tensor,
        values_N1HD: torch.Tensor,
        layer: int,
        *more: Any,
        **named: Any,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Add a token to each cache, and return the keys and the values of each row.

        They are lists, so a model that does anything but pass them to its attention function fails.
        """
        pairs = [
            cache.update(
                keys_N1HD[row : row + 1], values_N1HD[row : row + 1], layer, *more, **named
            )
            for row, cache in enumerate(self.caches)
        ]
        return [keys for keys, _ in pairs], [values for _, values in pairs]


def attention_of_rows(
    module: Any,
    query_NH1D: torch.Tensor,
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
    attention_mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of each row to its own keys, (N, 1, H, D)."""
    if attention_mask is not None or options.get("position_bias") is not None:
        raise CannotBatch("The model changes its attention by position.")
    rows = [
        sdpa_attention_forward(module, query_NH1D[row : row + 1], *pair, None, **options)[0]
        for row, pair in enumerate(zip(keys, values, strict=True))
    ]
    return torch.cat(rows), None


AttentionInterface.register(ATTENTION, attention_of_rows)


def next_logits(
    base: Base,
    variants: Sequence[Variant],
    tokens: Sequence[int],
    positions: Sequence[int],
    caches: Sequence[DynamicCache],
) -> torch.Tensor:
    """Forward one token of each row, and return the logits of the next ones, (N, V) float32.

    Rows with the same adapter must be neighbours. Any exception may be raised, and leaves the caches in an undefined state.
    """
    device = base.network.device
    base.switch_rows_to(variants)
    with _attention_of_rows(base.network.config):
        output = base.network(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            position_ids=torch.tensor(positions, device=device)[:, None],
            past_key_values=CacheOfRows(caches),
            use_cache=True,
        )
    return output.logits[:, -1].float()


@contextmanager
def _attention_of_rows(config: Any) -> Iterator[None]:
    """Let the layers of a model call `attention_of_rows`. Raises CannotBatch."""
    config = config.get_text_config()
    before = config._attn_implementation
    if before != "sdpa":
        raise CannotBatch(f"The model computes its attention with {before}, not with sdpa.")
    if unusual := set(getattr(config, "layer_types", None) or ()) - PLAIN_LAYERS:
        raise CannotBatch(f"The model has layers of the type {', '.join(sorted(unusual))}.")
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def can_batch(base: Base, variant: Variant) -> bool:
    """Return whether rows of this adapter can be in a batch. The answer is computed once, and logged."""
    if variant.batches is None:
        try:
            _check(base, variant)
            variant.batches = True
        except Exception as error:  # a model can fail in any way; it is then served alone
            variant.batches = False
            reason = str(error) if isinstance(error, CannotBatch) else repr(error)
            name = variant.label or "The base"
            log(f"{name} of {base.name} answers one chat at a time: {reason}")
    return variant.batches


def _check(base: Base, variant: Variant) -> None:
    """Raise CannotBatch if two texts get other logits together than alone.

    The first has the adapter. So has the second one, then none.
    """
    for second in (variant, Variant("", variant.chat)):
        rows = list(zip((variant, second), TEXTS, strict=True))
        alone, together = ([_read(base, *row) for row in rows] for _ in range(2))
        expected_NV = torch.cat(
            [
                base.forward(v, [text[-1]], cache)
                for (v, text), cache in zip(rows, alone, strict=True)
            ]
        )
        logits_NV = next_logits(
            base,
            [variant, second],
            [text[-1] for text in TEXTS],
            [len(text) - 1 for text in TEXTS],
            together,
        )
        allowed = MOST_DIFFERENCE.get(base.network.dtype, MOST_ROUNDING) * expected_NV.abs().max()
        difference = (logits_NV - expected_NV).abs().max()
        if not difference <= allowed:  # also if it is not a number
            raise CannotBatch(
                f"In a batch, logits differ by {difference:.2g}, which is more than {allowed:.2g}."
            )


def _read(base: Base, variant: Variant, text: list[int]) -> DynamicCache:
    """Return the cache after all tokens of a text but the last."""
    cache = DynamicCache(config=base.network.config)
    base.forward(variant, text[:-1], cache)
    return cache

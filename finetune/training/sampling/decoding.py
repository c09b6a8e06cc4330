"""Decoding of a batch of responses. A prompt is forwarded once for all its responses.

The prompts are forwarded first, each different text as one row. The first token of each response is
drawn from the logits of its prompt. Then the cache gets one row for each response, and the responses are
continued in stages. Between two stages, the rows of finished responses are removed from the cache.

`generate` of transformers makes the forward passes, because it knows how each family of models computes
positions and masks of padded rows. The tokens are drawn by `SeededSampling`.

Legend: P prompts, B rows, T tokens. Tensors carry their shape as a suffix: tokens_BT.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList

from finetune.engines.engine import Request, Sampled
from finetune.training.models.language_model import PolicyChat
from finetune.training.sampling.cache import GrowingCache
from finetune.training.sampling.distribution import Distribution, SeededSampling

STAGE = 16
"""The number of tokens after which the rows of finished responses are removed.

Until then, a finished row costs as much as an unfinished one. Removing it copies the cache of the others.
"""
RESTARTED_STAGE = 32
"""The length of the first stage for a model without a cache that can be kept. Each further stage is twice
as long, because the whole text is forwarded again at its beginning."""


@dataclass
class Row:
    """The tokens of a response, in progress. `written` includes the token that ended it."""

    request: Request
    most: int
    written: list[int] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self.uniforms_T = np.random.Generator(np.random.Philox(self.request.seed)).random(self.most)

    @property
    def ids(self) -> list[int]:
        return self.request.prompt_ids + self.written

    @property
    def finished(self) -> bool:
        return self.ended or len(self.written) >= self.most

    def extend(self, tokens: list[int], stop_ids: list[int]) -> None:
        end = next((index for index, token in enumerate(tokens) if token in stop_ids), None)
        self.ended = end is not None
        self.written += tokens if end is None else tokens[: end + 1]


def finish(row: Row, chat: PolicyChat) -> Sampled:
    """Return the response of a finished row."""
    return Sampled(
        prompt_id=row.request.prompt.prompt_id,
        sample=row.request.sample,
        seed=row.request.seed,
        text=chat.response_text(row.written[:-1] if row.ended else row.written),
        tokens=len(row.written),
        prompt_tokens=len(row.request.prompt_ids),
        truncated=not row.ended,
        token_ids=row.written,
    )


def decode(model: Any, chat: PolicyChat, rows: Sequence[Row], distribution: Distribution) -> None:
    """Finish the rows, which have the same number of new tokens.

    If an error interrupts it, each row keeps the tokens of the completed stages, and a further call
    continues with them.
    """
    rows = [row for row in rows if not row.finished]
    if not rows:
        return
    if cache := new_cache(model):
        _decode_with_cache(model, chat, rows, distribution, cache)
    else:
        _decode_with_restarts(model, chat, rows, distribution)


def new_cache(model: Any) -> GrowingCache | None:
    """Return an empty cache for the model, or None if its family has a cache of another kind."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not plain._supports_default_dynamic_cache() or "mamba" in type(plain).__name__.lower():
        return None
    return GrowingCache(plain.config)


def _decode_with_cache(
    model: Any, chat: PolicyChat, rows: list[Row], distribution: Distribution, cache: GrowingCache
) -> None:
    texts, text_of_row = _different([row.ids for row in rows])
    read = Padded(texts, chat.tokenizer.pad_token_id, model.device)
    first = FirstTokens(rows, text_of_row, distribution, read.mask_BT)
    _generate(model, chat, read, 1, first, cache)
    for row, token in zip(rows, first.tokens_B, strict=True):
        row.extend([token], chat.stop_ids)
    batch = read.select(text_of_row).extended(torch.tensor(first.tokens_B).unsqueeze(1))
    row_of_cache = text_of_row
    while keep := [index for index, row in enumerate(rows) if not row.finished]:
        if len(keep) < len(rows) or row_of_cache != list(range(len(rows))):
            cache.select([row_of_cache[index] for index in keep])
            batch, rows = batch.select(keep), [rows[index] for index in keep]
        row_of_cache = list(range(len(rows)))
        count = min(STAGE, rows[0].most - len(rows[0].written))
        batch = _continue(model, chat, rows, batch, count, distribution, cache)


def _decode_with_restarts(
    model: Any, chat: PolicyChat, rows: list[Row], distribution: Distribution
) -> None:
    """Decode without a cache between the stages, whose lengths double."""
    upto = RESTARTED_STAGE
    while rows:
        count = min(upto, rows[0].most) - len(rows[0].written)
        if count > 0:
            batch = Padded([row.ids for row in rows], chat.tokenizer.pad_token_id, model.device)
            _continue(model, chat, rows, batch, count, distribution, None)
        rows = [row for row in rows if not row.finished]
        upto *= 2


def _continue(
    model: Any,
    chat: PolicyChat,
    rows: list[Row],
    batch: "Padded",
    count: int,
    distribution: Distribution,
    cache: GrowingCache | None,
) -> "Padded":
    """Continue the rows by `count` tokens, or until all have ended. Return the longer batch."""
    done = len(rows[0].written)
    uniforms_BT = np.stack([row.uniforms_T[done : done + count] for row in rows])
    draw = SeededSampling(uniforms_BT, distribution, batch.mask_BT, model.device)
    tokens_BT = _generate(model, chat, batch, count, draw, cache)
    for row, tokens in zip(rows, tokens_BT.tolist(), strict=True):
        row.extend(tokens, chat.stop_ids)
    return batch.extended(tokens_BT)


def _generate(
    model: Any, chat: PolicyChat, batch: "Padded", count: int, draw: Any, cache: Any
) -> torch.Tensor:
    """Return at most `count` new tokens for each row, (B, T)."""
    tokens_BT: torch.Tensor = model.generate(
        input_ids=batch.ids_BT,
        attention_mask=batch.mask_BT,
        generation_config=GenerationConfig(
            max_new_tokens=count,
            do_sample=False,  # `draw` chooses the token
            eos_token_id=chat.stop_ids,
            pad_token_id=chat.tokenizer.pad_token_id,
        ),
        logits_processor=LogitsProcessorList([draw]),
        **({"past_key_values": cache} if cache else {}),
    )
    return tokens_BT[:, batch.ids_BT.shape[1] :]


def _different(texts: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Return the different texts in the order of their first occurrence, and the index of each text."""
    index: dict[tuple[int, ...], int] = {}
    of_each = [index.setdefault(tuple(text), len(index)) for text in texts]
    return [list(text) for text in index], of_each


class Padded:
    """Tokens of texts that are padded on the left, (B, T), with a mask that is 0 for the padding."""

    def __init__(self, texts: list[list[int]], pad: int, device: Any):
        length = max(map(len, texts))
        self.ids_BT = torch.tensor(
            [[pad] * (length - len(text)) + text for text in texts], device=device
        )
        self.mask_BT = torch.tensor(
            [[0] * (length - len(text)) + [1] * len(text) for text in texts], device=device
        )

    @classmethod
    def of(cls, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> "Padded":
        batch = cls.__new__(cls)
        batch.ids_BT, batch.mask_BT = ids_BT, mask_BT
        return batch

    def select(self, indices: list[int]) -> "Padded":
        return Padded.of(self.ids_BT[indices], self.mask_BT[indices])

    def extended(self, tokens_BT: torch.Tensor) -> "Padded":
        """Return the batch with further tokens on the right."""
        tokens_BT = tokens_BT.to(self.ids_BT.device)
        return Padded.of(
            torch.cat([self.ids_BT, tokens_BT], dim=1),
            torch.cat([self.mask_BT, torch.ones_like(tokens_BT)], dim=1),
        )


class FirstTokens(SeededSampling):
    """A processor for the logits of P texts that draws the next token of each row that continues one.

    The tokens are in `tokens_B` after the call. The scores are returned unchanged.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        text_of_row: list[int],
        distribution: Distribution,
        mask_PT: torch.Tensor,
    ):
        uniforms_B1 = np.stack([row.uniforms_T[len(row.written)] for row in rows])[:, None]
        super().__init__(uniforms_B1, distribution, mask_PT, mask_PT.device)
        self.text_of_row = torch.tensor(text_of_row, device=mask_PT.device)
        self.tokens_B: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits_BV = self.penalised(input_ids, scores)[self.text_of_row]
        self.tokens_B = self.draw(logits_BV, self.uniforms_BT)[:, 0].tolist()
        return scores

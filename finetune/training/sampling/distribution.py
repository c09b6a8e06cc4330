"""The distribution from which the next token is drawn.

It follows from the settings or from `generation_config.json`, in which publishers recommend how to
sample from their model. With `sampling: published`, a run uses this file, as chat applications do.

Legend: B rows, T tokens so far, V vocabulary. Tensors carry their shape as a suffix: logits_BV.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor

from finetune.settings import SamplingConfig
from recipes.errors import RecipeError
from recipes.models.references import split_reference

FOLLOWED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "typical_p": (1.0,),
    "top_h": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "guidance_scale": (1, 1.0),
}
"""Fields that would change the distribution but are not supported, with their neutral values."""
LISTS = (
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "forced_bos_token_id",
)
LIKELIEST = (256, 4096)
"""Numbers of likeliest tokens from which a token is drawn on a CPU before all tokens are sorted."""
SUM_ERROR = 1e-5
"""The maximum difference of the sum of a row of probabilities from 1, in float32."""


@dataclass(frozen=True)
class Distribution:
    """The changes to the model's probabilities before a token is drawn, in the order of transformers.

    1. The logits of tokens that have occurred are divided by `repetition_penalty` if they are positive,
       and multiplied by it if they are negative.
    2. All logits are divided by the `temperature`.
    3. Only the `top_k` likeliest tokens are kept. 0 keeps all tokens.
    4. Only the likeliest tokens with a total probability of `top_p` are kept.
    5. Only tokens with at least `min_p` times the highest probability are kept.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of_settings(cls, config: SamplingConfig) -> Self:
        return cls(temperature=config.temperature, top_p=config.top_p)

    @classmethod
    def of_run(cls, config: Any) -> Self:
        """Return the distribution of a run with a `model`.

        Raises RecipeError if the run uses the published distribution and there is none, or if it has
        a field that is not supported.
        """
        if config.sampling == "settings":
            return cls.of_settings(config)
        return cls.published(config.model)

    @classmethod
    def published(cls, reference: str) -> Self:
        """Return the distribution of the model's `generation_config.json`. Raises RecipeError."""
        name, revision = split_reference(reference)
        try:
            file = GenerationConfig.from_pretrained(
                name, revision=revision or "main", trust_remote_code=False
            )
        except (OSError, ValueError):
            file = GenerationConfig()
        values = {key: v for key, v in file.to_diff_dict().items() if v is not None}
        unknown = [key for key, usual in NEUTRAL.items() if values.get(key, usual[0]) not in usual]
        unknown += [key for key in LISTS if values.get(key)]
        if unknown:
            raise RecipeError(
                f"The published sampling of {reference} has {', '.join(unknown)}, which Tiebreak does "
                "not follow. Set sampling to settings, and enter temperature and top-p."
            )
        chosen = {key: values[key] for key in FOLLOWED if key in values}
        if file.do_sample is False:
            chosen = {
                **chosen,
                "temperature": 0.0,
            }  # the likeliest token; the other fields have no effect
        elif not (file.do_sample or chosen):
            raise RecipeError(
                f"{reference} publishes no sampling settings in a generation_config.json. Set sampling "
                "to settings, and enter temperature and top-p."
            )
        return cls(**chosen)

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


class SeededSampling(LogitsProcessor):
    """A processor that leaves one possible token per row, chosen by a uniform random number."""

    def __init__(
        self,
        uniforms_BT: np.ndarray,
        distribution: Distribution,
        mask: Sequence[Sequence[int]] | torch.Tensor,
        device: Any,
    ):
        """Store the uniform numbers, of which the first is for the next token.

        `mask` is 0 for the padding on the left of the current rows.
        """
        self.uniforms_BT = torch.tensor(uniforms_BT, device=device)
        self.distribution = distribution
        self.padding_BT = torch.as_tensor(mask, device=device) == 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        length = self.padding_BT.shape[1]
        uniform_B1 = self.uniforms_BT[:, input_ids.shape[1] - length].unsqueeze(1)
        token_B1 = self.draw(self.penalised(input_ids, scores), uniform_B1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token_B1, 0.0)

    def draw(self, logits_BV: torch.Tensor, uniform_B1: torch.Tensor) -> torch.Tensor:
        """Return the tokens, (B, 1), that the uniform numbers choose."""
        return draw(
            logits_BV,
            uniform_B1,
            temperature=self.distribution.temperature,
            top_p=self.distribution.top_p,
            top_k=self.distribution.top_k,
            min_p=self.distribution.min_p,
        )

    def penalised(self, tokens_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        """Return the logits with a penalty for tokens that have occurred, except in the padding."""
        if self.distribution.repetition_penalty == 1:
            return logits_BV
        tokens_BT = tokens_BT.clone()
        padding_BT = self.padding_BT
        length = padding_BT.shape[1]
        # The padding is replaced by a token of the same row, the last one, which is never padding.
        tokens_BT[:, :length] = tokens_BT[:, :length].where(~padding_BT, tokens_BT[:, -1:])
        seen_BT = logits_BV.gather(1, tokens_BT)
        penalty = self.distribution.repetition_penalty
        reduced_BT = torch.where(seen_BT < 0, seen_BT * penalty, seen_BT / penalty)
        return logits_BV.scatter(1, tokens_BT, reduced_BT)


def draw(
    logits_BV: torch.Tensor,
    uniform_B1: torch.Tensor,
    *,
    temperature: float,
    top_p: float,
    top_k: int = 0,
    min_p: float = 0.0,
) -> torch.Tensor:
    """Return tokens, (B, 1), drawn by inverse transform from the tokens that are kept."""
    if temperature == 0:
        return logits_BV.argmax(dim=1, keepdim=True)
    probs_BV = torch.softmax(logits_BV.float() / temperature, dim=1)
    if probs_BV.device.type == "cpu":
        return _draw_from_likeliest(probs_BV, uniform_B1, top_p, top_k, min_p)
    return _draw_from_all(probs_BV, uniform_B1, top_p, top_k, min_p)


def _draw_from_all(
    probs_BV: torch.Tensor, uniform_B1: torch.Tensor, top_p: float, top_k: int, min_p: float
) -> torch.Tensor:
    """Return the drawn tokens, (B, 1), with a sort of the whole vocabulary."""
    probs_BV, order_BV = probs_BV.sort(dim=1, descending=True, stable=True)
    if top_k:
        probs_BV, order_BV = probs_BV[:, :top_k], order_BV[:, :top_k]
        probs_BV = probs_BV / probs_BV.sum(dim=1, keepdim=True)
    cumulative_BV = probs_BV.cumsum(dim=1, dtype=torch.float64)
    # A token is in the nucleus if the probabilities of the tokens before it add up to less than `top_p`.
    # So the first token always is.
    kept_BV = (cumulative_BV - probs_BV < top_p) & (probs_BV >= min_p * probs_BV[:, :1])
    size_B1 = kept_BV.sum(dim=1, keepdim=True)
    mass_B1 = cumulative_BV.gather(1, size_B1 - 1)
    index_B1 = (cumulative_BV <= uniform_B1 * mass_B1).sum(dim=1, keepdim=True)
    return order_BV.gather(1, index_B1.minimum(size_B1 - 1))  # rounding may exceed the nucleus


def _draw_from_likeliest(
    probs_BV: torch.Tensor,
    uniform_B1: torch.Tensor,
    top_p: float,
    top_k: int,
    min_p: float,
    counts: Sequence[int] = LIKELIEST,
) -> torch.Tensor:
    """Return the tokens of `_draw_from_all`, (B, 1), without a sort of the vocabulary if possible.

    The first of `counts` is the number N of likeliest tokens that are sorted. They decide a row if the
    nucleus ends among them, or if the smallest and the largest probability that the nucleus may have give
    the same token. Other rows are repeated with the next of `counts`, and finally with all tokens. On a
    CPU, sorting 150,000 tokens takes about 27 ms, and selecting 256 of them less than 1 ms.
    """
    if not counts or probs_BV.shape[1] <= 2 * counts[0]:
        return _draw_from_all(probs_BV, uniform_B1, top_p, top_k, min_p)
    probs_BN, order_BN, last_B1 = _likeliest(probs_BV, counts[0])
    # Several tokens may have the probability of the last one. Which of them are selected is arbitrary.
    certain_B1 = (probs_BN > last_B1).sum(dim=1, keepdim=True)
    if top_k and top_k <= counts[0]:
        probs_BN = probs_BN[:, :top_k] / probs_BN[:, :top_k].sum(dim=1, keepdim=True)
    cumulative_BN = probs_BN.cumsum(dim=1, dtype=torch.float64)
    kept_BN = (cumulative_BN - probs_BN < top_p) & (probs_BN >= min_p * probs_BN[:, :1])
    size_B1 = kept_BN.sum(dim=1, keepdim=True)
    mass_B1 = cumulative_BN.gather(1, size_B1 - 1)
    index_B1 = (cumulative_BN <= uniform_B1 * mass_B1).sum(dim=1, keepdim=True).minimum(size_B1 - 1)
    decided_B1 = certain_B1 >= top_k if top_k else size_B1 < certain_B1
    if not top_k and not min_p:
        least, most_B1 = min(top_p, 1 - SUM_ERROR), (top_p + last_B1).clamp(max=1 + SUM_ERROR)
        first_B1 = (cumulative_BN <= uniform_B1 * least).sum(dim=1, keepdim=True)
        end_B1 = (cumulative_BN <= uniform_B1 * most_B1).sum(dim=1, keepdim=True)
        same_B1 = (first_B1 == end_B1) & (end_B1 < certain_B1)
        index_B1 = index_B1.where(decided_B1, first_B1.clamp(max=probs_BN.shape[1] - 1))
        decided_B1 = decided_B1 | same_B1
    token_B1 = order_BN.gather(1, index_B1)
    if not decided_B1.all():
        open_B = ~decided_B1[:, 0]
        token_B1[open_B] = _draw_from_likeliest(
            probs_BV[open_B], uniform_B1[open_B], top_p, top_k, min_p, counts[1:]
        )
    return token_B1


def _likeliest(
    probs_BV: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the N highest probabilities, (B, N), their tokens, and the lowest of them, (B, 1).

    Tokens with the same probability are in the order of the vocabulary, as after a stable sort.
    """
    probs_BN, order_BN = probs_BV.topk(count, dim=1)
    last_B1 = probs_BN[:, -1:]
    order_BN = order_BN.sort(dim=1).values
    probs_BN, index_BN = probs_BV.gather(1, order_BN).sort(dim=1, descending=True, stable=True)
    return probs_BN, order_BN.gather(1, index_BN), last_B1

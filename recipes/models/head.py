"""Log-probabilities of given tokens, in chunks, without the logits of all tokens at the same time.

A language model's logits take N·V numbers: for 8,000 tokens and a vocabulary of 150,000, 4.8 GB in
float32, and the same again for their gradient. Here each chunk's logits are discarded after use.
With a frozen head, the gradient is computed in the forward pass, chunk by chunk. It is

    log π(y | h) = z_y - log Σ exp z,  z = W·h
    ∂ log π / ∂h = u = W_y - softmax(z)·W

Only u is stored, which is as large as the hidden states. The backward pass multiplies u by the
incoming gradient.
This costs 4·N·H·V operations in training and 2·N·H·V without gradients, as without chunks. A head
that is trained itself recomputes its chunks in the backward pass (Chen et al. 2016,
arXiv:1604.06174), which costs 8·N·H·V.

Legend: N tokens, H hidden size, V words of the vocabulary, C tokens of a chunk.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

CHUNK_NUMBERS = {"cpu": 2**24, "cuda": 2**27}
"""Logits of a chunk, C·V. 64 MB in float32 stay near the caches of a CPU; a GPU needs more rows."""
MIN_CHUNK_TOKENS = 16
"""A chunk has at least this many tokens, because products of few rows are slow."""


@dataclass(frozen=True)
class Head:
    """The last layer of a language model, with the factor and the cap that the family applies.

    logits = softcap · tanh(scale · layer(hidden) / softcap), without a cap if `softcap` is None.
    """

    layer: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    @property
    def is_frozen(self) -> bool:
        """Return whether this is a linear layer whose weights are not trained."""
        return type(self.layer) is nn.Linear and not any(
            weight.requires_grad for weight in self.layer.parameters()
        )

    def token_logps(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of each token after its hidden state.

        (N, H), (N,) → (N,) float32. The softmax is computed in float32.
        """
        if self.is_frozen:
            gradient = torch.is_grad_enabled() and hidden.requires_grad
            return _FrozenLogps.apply(hidden, tokens, self, gradient)
        vocabulary = getattr(self.layer, "out_features", 2**15)
        chunks = zip(
            *(values.split(chunk_tokens(vocabulary, hidden)) for values in (hidden, tokens)),
            strict=True,
        )
        logps = [checkpoint(self._logps, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.cat(logps) if logps else hidden.new_zeros(0, dtype=torch.float32)

    def _logps(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return gathered_logps(self.adjusted(self.layer(hidden).float()), tokens)

    def adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits with the family's factor and cap."""
        logits = logits * self.scale
        if self.softcap is None:
            return logits
        return self.softcap * torch.tanh(logits / self.softcap)


def gathered_logps(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of tokens under logits, (N, V), (N,) → (N,) float32."""
    logits = logits.float()
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)


def chunk_tokens(vocabulary: int, like: torch.Tensor) -> int:
    """Return the number of tokens of a chunk, C."""
    numbers = CHUNK_NUMBERS.get(like.device.type, CHUNK_NUMBERS["cuda"])
    return max(MIN_CHUNK_TOKENS, numbers // vocabulary)


class _FrozenLogps(torch.autograd.Function):
    """The log-probabilities of a frozen linear head. Saves u, (N, H), in the hidden state's format."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, tokens: torch.Tensor, head: Head, gradient: bool
    ) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            logps, u = _frozen_logps(hidden, tokens, head, gradient)
        ctx.save_for_backward(u)
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (u,) = ctx.saved_tensors  # (N, H)
        return (gradients[0][:, None] * u).to(u.dtype), None, None, None


def _frozen_logps(
    hidden: torch.Tensor, tokens: torch.Tensor, head: Head, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities, (N,), and their gradients u, (N, H), empty unless asked for."""
    weight, bias = head.layer.weight, head.layer.bias  # (V, H), (V,)
    logps = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    u = torch.empty_like(hidden) if gradient else hidden.new_empty(0)
    size = chunk_tokens(len(weight), hidden)
    # All chunks share one buffer. Otherwise a new chunk would be allocated before the previous one
    # is freed, and the operating system would zero its pages each time.
    products = weight.new_empty(min(size, len(hidden)), len(weight))  # (C, V)
    exact = products.dtype == torch.float32
    floats = products if exact else products.new_empty(products.shape, dtype=torch.float32)
    for start in range(0, len(hidden), size):
        chunk = slice(start, start + size)
        y = tokens[chunk, None]  # (C, 1)
        product, z = products[: len(y)], floats[: len(y)]  # (C, V)
        torch.mm(hidden[chunk].to(weight.dtype), weight.T, out=product)
        if not exact:
            z.copy_(product)
        if bias is not None:
            z += bias
        if head.scale != 1.0:
            z *= head.scale
        slope = None
        if head.softcap is not None:
            z = z.div_(head.softcap).tanh_()
            slope = 1 - z * z if gradient else None  # (C, V): derivative of the cap
            z *= head.softcap
        z -= z.amax(dim=-1, keepdim=True)
        of_token = z.gather(1, y)  # (C, 1)
        total = z.exp_().sum(dim=-1, keepdim=True)  # (C, 1)
        logps[chunk] = (of_token - total.log())[:, 0]
        if not gradient:
            continue
        if slope is None:
            # softmax(z)·W = (exp(z)·W) / Σ exp z, so that the division is over H numbers, not V.
            expected = (z.to(weight.dtype) @ weight).float() / total  # (C, H)
            change = weight[y[:, 0]].float() - expected
        else:
            z.div_(-total).scatter_add_(1, y, torch.ones_like(of_token))  # (C, V): 1[y] - softmax
            change = ((z * slope).to(weight.dtype) @ weight).float()
        u[chunk] = (head.scale * change).to(u.dtype)
    return logps, u


# --- finding the head -------------------------------------------------------------------------------


def head_of(model: Any) -> Head:
    """Return the head of a causal language model, with the factor and the cap of its family.

    The names are those of transformers: logit_scale (Cohere), logits_scaling (Granite),
    lm_head_multiplier (Falcon-H1), final_logit_softcapping (Gemma 2), logits_soft_cap (Griffin).
    PolicyModel compares the result with the model's own logits.
    """
    config = model.config.get_text_config()

    def number(name: str) -> float | None:
        value = getattr(config, name, None)
        return float(value) if isinstance(value, int | float) and value else None

    scale = (number("logit_scale") or 1.0) * (number("lm_head_multiplier") or 1.0)
    scale /= number("logits_scaling") or 1.0
    softcap = number("final_logit_softcapping") or number("logits_soft_cap")
    return Head(model.get_output_embeddings(), scale, softcap)

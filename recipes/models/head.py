"""Log-probabilities of given tokens, computed in chunks of tokens.

The logits of a language model take N·V numbers. For 8,000 tokens and a vocabulary of 150,000 words,
that is 4.8 GB in float32, and their gradient takes as much again. Here, the logits of each chunk are
discarded after use. If the head is frozen, the gradient is computed in the forward pass, chunk by
chunk:

    log π(y | h) = z_y - log Σ exp z,  z = W·h
    ∂ log π / ∂h = u = W_y - softmax(z)·W

Only u is stored, which is as large as the hidden states. The backward pass multiplies u by the
incoming gradient. Training takes 4·N·H·V operations and a pass without gradients takes 2·N·H·V, the
same as without chunks. If the head itself is trained, its chunks are computed again in the backward
pass (Chen et al. 2016, arXiv:1604.06174), and training takes 8·N·H·V operations.

Legend: N tokens, H hidden size, V words of the vocabulary, C tokens of a chunk.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

CHUNK_NUMBERS = {"cpu": 2**24, "cuda": 2**27}
"""The number of logits in a chunk, C·V.

On a CPU, the 64 MB in float32 are not much larger than its caches. A GPU needs more rows.
"""
MIN_CHUNK_TOKENS = 16
"""The minimum number of tokens in a chunk. A product of fewer rows is slow."""


@dataclass(frozen=True)
class Head:
    """The last layer of a language model, with the factor and the cap of its family.

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
        """Return the log-probability of each token, given its hidden state.

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
        """Return the logits with the factor and the cap of the family."""
        logits = logits * self.scale
        if self.softcap is None:
            return logits
        return self.softcap * torch.tanh(logits / self.softcap)


def gathered_logps(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of tokens, given their logits. (N, V), (N,) → (N,) float32."""
    logits = logits.float()
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)


def chunk_tokens(vocabulary: int, like: torch.Tensor) -> int:
    """Return the number of tokens in a chunk, C."""
    numbers = CHUNK_NUMBERS.get(like.device.type, CHUNK_NUMBERS["cuda"])
    return max(MIN_CHUNK_TOKENS, numbers // vocabulary)


class _FrozenLogps(torch.autograd.Function):
    """The log-probabilities of a frozen linear head.

    It saves u, (N, H), in the number format of the hidden states.
    """

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
    """Return the log-probabilities, (N,), and their gradients u, (N, H).

    Without `gradient`, u is empty.
    """
    weight, bias = head.layer.weight, head.layer.bias  # (V, H), (V,)
    logps = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    u = torch.empty_like(hidden) if gradient else hidden.new_empty(0)
    size = chunk_tokens(len(weight), hidden)
    # All chunks share one buffer. Otherwise, each chunk would be allocated before the previous one
    # is freed, and the operating system would fill its pages with zeros each time.
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


# --- memory of the model's own head -----------------------------------------------------------------


def keep_head_input_contiguous(model: Any) -> None:
    """Make the head of a language model copy a sliced input, so that it multiplies one matrix.

    transformers passes the last positions of all rows to the head, as a slice. With frozen weights,
    torch.matmul (2.13) then repeats the weights for each row of the batch: 2.6 GB and 8 seconds for 48
    rows of a model with 135 million weights in bfloat16 on a CPU, instead of 5 MB and 0.02 seconds.
    """
    if (layer := model.get_output_embeddings()) is not None:
        layer.register_forward_pre_hook(_contiguous)


def _contiguous(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden, *others = inputs
    return hidden.contiguous(), *others


# --- finding the head -------------------------------------------------------------------------------


def head_of(model: Any) -> Head:
    """Return the head of a causal language model, with the factor and the cap of its family.

    transformers has several names for them: logit_scale (Cohere), logits_scaling (Granite),
    lm_head_multiplier (Falcon-H1), final_logit_softcapping (Gemma 2), logits_soft_cap (Griffin).
    PolicyModel compares the result of the head with the logits of the model.
    """
    config = model.config.get_text_config()

    def number(name: str) -> float | None:
        value = getattr(config, name, None)
        return float(value) if isinstance(value, int | float) and value else None

    scale = (number("logit_scale") or 1.0) * (number("lm_head_multiplier") or 1.0)
    scale /= number("logits_scaling") or 1.0
    softcap = number("final_logit_softcapping") or number("logits_soft_cap")
    return Head(model.get_output_embeddings(), scale, softcap)

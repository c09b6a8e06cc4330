"""Floating-point operations of a model's steps, and the peak rate of the machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from recipes.preferences.tokens import TokenGroup

SHEETS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Operations per second, dense bfloat16 with float32 accumulation, from the data sheets of the fastest
variants."""


def shared_work(group: TokenGroup) -> tuple[int, int]:
    """Return tokens and attended positions if the prompt is forwarded once."""
    prompt = len(group.prompt)
    lengths = [len(response) for response in group.responses]
    attended = triangle(prompt) + sum(triangle(n) + n * prompt for n in lengths)
    return prompt + sum(lengths), attended


def plain_work(group: TokenGroup) -> tuple[int, int]:
    """Return the same numbers if each response has its own copy of the prompt."""
    texts = [len(group.prompt) + len(response) for response in group.responses]
    return sum(texts), sum(map(triangle, texts))


def pairs_work(group: TokenGroup) -> tuple[int, int]:
    """Return the same numbers if each response is forwarded once per other response."""
    tokens, attended = plain_work(group)
    others = len(group.responses) - 1
    return tokens * others, attended * others


@dataclass(frozen=True)
class PolicyWork:
    """The tokens that a step of preference training forwards through a causal language model."""

    body: int  # tokens through all layers but the last
    head: int  # tokens through the last layer, which has a row per word of the vocabulary
    attended: int  # attended positions


def policy_work(groups: Sequence[TokenGroup], *, pairs: bool) -> PolicyWork:
    """Return the minimum work for the rankings, with each text forwarded once or once per pair.

    The head is needed only where a token of a response is predicted.
    """
    parts = [(pairs_work if pairs else shared_work)(group) for group in groups]
    predicted = sum(
        sum(map(len, group.responses)) * (len(group.responses) - 1 if pairs else 1)
        for group in groups
    )
    return PolicyWork(sum(part[0] for part in parts), predicted, sum(part[1] for part in parts))


def policy_flops(model: Any, work: PolicyWork, *, head_passes: int = 2) -> float:
    """Return the operations of a forward and a backward pass of a policy.

    Counts like `step_flops`, except for the head, which has its own number of tokens. It takes
    `head_passes` products of two operations per weight: 2 products for a frozen head (forward,
    gradient of its input), and 3 if the backward pass computes the logits again.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = inner.get_output_embeddings()
    body = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    per_token = sum(w.numel() * (6 if w.requires_grad else 4) for w in body)
    return float(
        per_token * work.body
        + 2 * head_passes * head.weight.numel() * work.head
        + attention_flops(model.config) * work.attended
    )


def attention_flops(config: Any) -> int:
    """Return the operations of an attended position in all layers, forward and backward."""
    text = config.get_text_config()
    width = text.num_attention_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )
    return 12 * width * text.num_hidden_layers


def triangle(length: int) -> int:
    return length * (length + 1) // 2


def step_flops(model: Any, work: Sequence[tuple[int, int]]) -> float:
    """Return the operations of a forward and a backward pass, without masked or repeated work.

    A weight takes two operations per token in the forward pass, two for the gradient of its input,
    and two for its own gradient if it is trained (Kaplan et al. 2020, arXiv:2001.08361, section
    2.1). An attended position takes 4 · width per layer, and twice that in the backward pass.
    """
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    per_token = sum(w.numel() * (6 if w.requires_grad else 4) for w in weights)
    per_position = attention_flops(model.config)
    return sum(float(per_token * tokens + per_position * attended) for tokens, attended in work)


def peak(device: str, clock: Callable[[], float] = time.perf_counter) -> tuple[float, str]:
    """Return operations per second and their source. Takes one second to measure unknown devices."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
        for model, figure in SHEETS.items():
            if model in name:
                return figure, "data sheet, bfloat16"
        return measured_peak("cuda", torch.bfloat16, clock), "measured matrix product, bfloat16"
    return measured_peak("cpu", torch.float32, clock), "measured matrix product, float32"


def measured_peak(device: str, dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """Return the best rate of matrix products during about one second of the clock."""
    size = 8192 if device == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device, dtype=dtype).unbind()
    best, until = float("inf"), clock() + 1
    while clock() < until or best == float("inf"):
        began = clock()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - began)
    return 2 * size**3 / best

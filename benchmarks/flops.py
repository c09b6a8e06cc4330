"""What a model's steps ask of a machine, and what the machine can give, both in floating-point operations."""

import time
from collections.abc import Callable, Sequence
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
"""Dense bfloat16 with float32 sums, of the variant with the most, a second; from the makers' data sheets."""


def shared_work(group: TokenGroup) -> tuple[int, int]:
    """(tokens, places looked at) where the prompt is forwarded once."""
    prompt = len(group.prompt)
    lengths = [len(response) for response in group.responses]
    seen = triangle(prompt) + sum(triangle(n) + n * prompt for n in lengths)
    return prompt + sum(lengths), seen


def plain_work(group: TokenGroup) -> tuple[int, int]:
    """The same where each response has its own copy of the prompt."""
    texts = [len(group.prompt) + len(response) for response in group.responses]
    return sum(texts), sum(map(triangle, texts))


def pairs_work(group: TokenGroup) -> tuple[int, int]:
    """The same where each response is forwarded once for each of the others."""
    tokens, seen = plain_work(group)
    others = len(group.responses) - 1
    return tokens * others, seen * others


def triangle(length: int) -> int:
    return length * (length + 1) // 2


def step_flops(model: Any, work: Sequence[tuple[int, int]]) -> float:
    """Forward and backward, without what a mask hides and without what is computed again.

    A weight is used twice a token in the forward pass, as often for the gradient of its input, and
    as often for its own if it is trained (Kaplan et al. 2020, arXiv:2001.08361, section 2.1);
    a place looked at costs 4 · width a layer and twice that in the backward pass.
    """
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    a_token = sum(w.numel() * (6 if w.requires_grad else 4) for w in weights)
    text = model.config.get_text_config()
    width = text.num_attention_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )
    a_place = 12 * width * text.num_hidden_layers
    return sum(float(a_token * tokens + a_place * seen) for tokens, seen in work)


def peak(device: str, clock: Callable[[], float] = time.perf_counter) -> tuple[float, str]:
    """Operations a second, and where the figure is from. Measures for a second where no sheet says."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
        for model, figure in SHEETS.items():
            if model in name:
                return figure, "data sheet, bfloat16"
        return measured_peak("cuda", torch.bfloat16, clock), "measured matrix product, bfloat16"
    return measured_peak("cpu", torch.float32, clock), "measured matrix product, float32"


def measured_peak(device: str, dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """The best of the products of two square matrices made in about a second of the clock."""
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

"""Floating-point operations of a model's steps, and the peak rate of the machine."""

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
    text = model.config.get_text_config()
    width = text.num_attention_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )
    per_position = 12 * width * text.num_hidden_layers
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

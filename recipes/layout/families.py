"""Checks that a model supports the shared layout, made on the first batch of a run.

Responses can share a prompt if the model is a decoder in which only attention carries information
from one token to the next, if it accepts position ids, and if its attention window is long enough.
The configuration and the layers of a model can rule this out. Otherwise, two measurements decide. A
model that fails one of the checks uses the plain layout, which is correct for all families.

Legend: G groups, K responses in the largest group, H hidden size, N + C outputs of the head.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from recipes.layout import attention
from recipes.layout.collate import Collator
from recipes.layout.forward import SharedPromptModel, evaluating, features_of, inputs_of
from recipes.machine.memory import is_out_of_memory
from recipes.models.quantization import is_quantized
from recipes.preferences.tokens import TokenGroup

ATTENDING = frozenset({"full_attention", "attention", "global", "global_attention"})
LOOKING_BACK = frozenset({"sliding_attention", "chunked_attention", "local", "local_attention"})
"""Types of layers by their names in configurations. Layers of all other types keep a state."""
RECURRENT = ("mamba", "ssm", "rwkv", "recurrent", "deltanet", "shortconv", "retention")
"""Parts of the class names of layers that keep a state.

They are used for families whose configuration does not list the types of layers.
"""

MAX_LAYOUT_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest relative difference of features between the layouts. Rounding causes 1e-6 in float32, and
up to 1e-2 in bfloat16 after many layers."""
MAX_CROSS_EFFECT = {torch.float32: 1e-5, torch.bfloat16: 1e-3, torch.float16: 1e-3}
"""Largest relative change of features when another response changes. It should be zero: only the
order of summation may differ."""

COMPARED_TOKENS = (64, 48)
"""Tokens of a prompt and of each response whose gradients are compared."""


def check_shared(
    model: SharedPromptModel, groups: Sequence[TokenGroup], pad_id: int, *, longest: int
) -> str | None:
    """Return the reason not to use the shared layout, or None if both layouts agree.

    `longest` is the length of the longest input of the run, in tokens. The groups are forwarded three
    times without gradients, in evaluation mode, which draws no random numbers.
    """
    problem = unsupported_architecture(model) or window_problem(model.config, longest)
    if problem:
        return problem
    plain = features_of(model, groups, _collator(model, pad_id, "plain"))
    return _or_dense(model, partial(_feature_problem, model, groups, pad_id, plain))


def check_gradients(
    model: SharedPromptModel, groups: Sequence[TokenGroup], pad_id: int, dtype: torch.dtype
) -> str | None:
    """Return the reason not to train with the shared layout, or None if the gradients agree.

    The check uses only the beginnings of the texts of the smallest group. On whole texts, the plain
    layout with its copies of the prompt would take more memory than any step. `dtype` is the number
    format of the forward pass. The weights and the random state stay the same, and the gradients are
    cleared.
    """
    smallest = min(groups, key=TokenGroup.size)
    beginnings = [response[: COMPARED_TOKENS[1]] for response in smallest.responses]
    group = [replace(smallest, prompt=smallest.prompt[: COMPARED_TOKENS[0]], responses=beginnings)]
    plain = _gradients(model, group, _collator(model, pad_id, "plain"), dtype)
    return _or_dense(model, partial(_gradient_problem, model, group, pad_id, dtype, plain))


def _collator(model: SharedPromptModel, pad_id: int, layout: str) -> Collator:
    packed = layout == "shared" and model.attends != attention.DENSE
    return Collator(pad_id, layout, packed=packed, targets=model.reads_targets)


def _or_dense(model: SharedPromptModel, check: Callable[[], str | None]) -> str | None:
    """Return the result of `check`, which is repeated with the dense mask if the attention fails."""
    problem = check()
    if problem and model.attends != attention.DENSE:
        model.attends = attention.DENSE
        problem = check()
    return problem


def _gradient_problem(
    model: SharedPromptModel,
    group: Sequence[TokenGroup],
    pad_id: int,
    dtype: torch.dtype,
    plain: torch.Tensor,
) -> str | None:
    collator = _collator(model, pad_id, "shared")
    try:
        shared = _gradients(model, group, collator, dtype)
    except Exception as error:  # kernel compilers raise errors of many types
        model.zero_grad(set_to_none=True)
        if is_out_of_memory(error):
            raise
        return f"its backward pass fails ({type(error).__name__}: {str(error)[:200]})"
    difference = ((shared - plain).norm() / plain.norm().clamp(min=1e-30)).item()
    if not difference <= 2 * MAX_LAYOUT_DIFFERENCE.get(
        dtype, MAX_LAYOUT_DIFFERENCE[torch.bfloat16]
    ):
        return f"its gradients differ by {difference:.2%} between the two layouts"
    return None


def _gradients(
    model: SharedPromptModel, group: Sequence[TokenGroup], collator: Collator, dtype: torch.dtype
) -> torch.Tensor:
    """Return the gradients of a weighted sum of the scores, flat, in float32, without dropout."""
    with evaluating(model), autocast(model.device, dtype):
        outputs = model(**inputs_of(model, group, collator))["outputs"]  # (1, K, N + C)
        k = torch.arange(outputs.shape[1], device=outputs.device)
        weights = (1 - 2 * (k % 2)) / (1 + k)  # (K,): 1, -½, ⅓, …
        (outputs.float() * weights[None, :, None]).sum().backward()
    gradients = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat(gradients)


def precision(model: SharedPromptModel) -> torch.dtype:
    """Return the number format in which the layers compute. For quantized layers it is bfloat16."""
    return torch.bfloat16 if is_quantized(model.inner) else model.inner.dtype


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which layers compute in this number format, unless it is float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def unsupported_architecture(model: SharedPromptModel) -> str | None:
    """Return the property of the model that rules out the shared layout, or None."""
    if not model.reads_last_token:
        return "it is an encoder, which reads a prompt differently before each response"
    layers = getattr(model.config.get_text_config(), "layer_types", None) or []
    for kind in sorted(set(layers) - ATTENDING - LOOKING_BACK):
        return f"it has {kind} layers, which carry a state from one response to the next"
    for module in model.inner.modules():
        name = type(module).__name__
        if isinstance(module, nn.Conv1d) or any(part in name.lower() for part in RECURRENT):
            return f"its {name} layers carry a state from one response to the next"
    return None


def window_problem(config: Any, longest: int) -> str | None:
    """Return a reason if inputs are longer than the model's attention window, otherwise None.

    The block mask replaces the mask of the family, so the window would have no effect.
    """
    text = config.get_text_config()
    layers = getattr(text, "layer_types", None)
    if layers and not LOOKING_BACK & set(layers):
        return None
    for name in ("sliding_window", "attention_chunk_size"):
        window = getattr(text, name, None)
        if window and longest > window:
            return f"it looks back only {window} tokens and inputs have up to {longest}"
    return None


def _feature_problem(
    model: SharedPromptModel, groups: Sequence[TokenGroup], pad_id: int, plain: torch.Tensor
) -> str | None:
    collator = _collator(model, pad_id, "shared")
    kind = precision(model)
    try:
        shared = features_of(model, groups, collator)
        next_to_another = features_of(
            model, [_with_other_first(g, pad_id) for g in groups], collator
        )
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return f"it fails in the shared layout ({type(error).__name__}: {str(error)[:200]})"
    present = _response_mask(groups)
    difference = _distance(shared, plain, present)
    if not difference <= MAX_LAYOUT_DIFFERENCE.get(kind, MAX_LAYOUT_DIFFERENCE[torch.bfloat16]):
        return f"its last layer differs by {difference:.2%} between the two layouts"
    change = _distance(next_to_another, shared, present & (torch.arange(present.shape[1]) > 0))
    if not change <= MAX_CROSS_EFFECT.get(kind, MAX_CROSS_EFFECT[torch.bfloat16]):
        return f"its last layer changes by {change:.2%} when another response changes"
    return None


def _response_mask(groups: Sequence[TokenGroup]) -> torch.Tensor:
    """Return the mask of the responses that exist, (G, K) bool."""
    counts = torch.tensor([len(group.responses) for group in groups])
    return torch.arange(int(counts.max())) < counts[:, None]


def _distance(ours: torch.Tensor, theirs: torch.Tensor, where: torch.Tensor) -> float:
    """Return the largest distance between two features, relative to their norm.

    It is NaN if a feature is NaN.
    """
    ours, theirs = ours[where], theirs[where]
    if not len(ours):
        return 0.0
    size = theirs.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    return ((ours - theirs).norm(dim=-1) / size).max().item()


def _with_other_first(group: TokenGroup, pad_id: int) -> TokenGroup:
    """Return the group with its first response replaced by the reversed prompt.

    The prompt is cut or repeated to the length of the response.
    """
    first, *others = group.responses
    tokens = group.prompt[::-1]
    indices = [n % len(tokens) for n in range(len(first))] if len(tokens) else []
    other = tokens[indices] if len(tokens) else first * 0 + pad_id
    return replace(group, responses=[other, *others])

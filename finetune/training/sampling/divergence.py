"""The log-ratios of a model's own answers: log π - log π_ref, summed over the tokens of an answer.

Their mean estimates the divergence KL(π ‖ π_ref) of the model π from a reference π_ref. The estimate is
unbiased if the answers are sampled with temperature 1 and top-p 1 (Schulman 2020, "Approximating KL
divergence"; this is the estimator k1). Otherwise it is about answers that are sampled as they were.

Legend: T tokens, V vocabulary. Tensors carry their shape as a suffix.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from recipes.stopping import StopSignal

Answer = tuple[list[int], list[int]]
"""The tokens of a prompt, and those of an answer to it."""


@torch.no_grad()
def answer_logps(model: Any, answers: Sequence[Answer], stop: StopSignal) -> list[float]:
    """Return log π of each answer given its prompt, in nats.

    The answers are read one at a time, because padding changes the result of some models. An answer
    without tokens has log π = 0. Raises Stopped if the run was asked to stop.
    """
    values = []
    for prompt, answer in answers:
        stop.check()
        values.append(_logp(model, prompt, answer) if answer else 0.0)
    return values


def _logp(model: Any, prompt: list[int], answer: list[int]) -> float:
    tokens_1T = torch.tensor([prompt + answer], device=model.device)
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model  # without adapter
    short = "logits_to_keep" in inspect.signature(plain.forward).parameters
    options = {"logits_to_keep": len(answer) + 1} if short else {}  # saves memory
    logits_1TV = model(input_ids=tokens_1T, **options).logits
    # The logits at a position are about the next token.
    logps_TV = torch.log_softmax(logits_1TV[0, -len(answer) - 1 : -1].float(), dim=-1)
    chosen_T1 = tokens_1T[0, -len(answer) :, None]
    return float(logps_TV.gather(1, chosen_T1).double().sum())

"""Sampling from a policy between two steps of its training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from finetune.training.models.policy import PolicyModel
from recipes.layout import attention


@contextmanager
def sampling_from(policy: PolicyModel) -> Iterator[Any]:
    """Yield the language model with its adapter, ready to sample.

    It has ordinary attention, no published sampling defaults, and no dropout.
    """
    model, inner = policy.ordinary, policy.inner
    own, training = inner.generation_config, model.training
    way = inner.config._attn_implementation
    if policy.attends != attention.DENSE:
        inner.set_attn_implementation("sdpa")
    inner.generation_config = GenerationConfig(eos_token_id=own.eos_token_id)
    model.eval()
    try:
        yield model
    finally:
        inner.generation_config = own
        if policy.attends != attention.DENSE:
            inner.set_attn_implementation(way)
        model.train(training)

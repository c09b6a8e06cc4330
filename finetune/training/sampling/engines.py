"""The engines that sample from a model on this machine, by the names in the settings."""

from typing import Any

from finetune.engines.engine import LocalEngine
from finetune.settings import BATCHED, SamplingConfig
from finetune.training.models.language_model import PolicyChat
from finetune.training.sampling.distribution import Distribution
from finetune.training.sampling.seeded import SeededEngine


def make_engine(
    name: str,
    model: Any,
    chat: PolicyChat,
    config: SamplingConfig,
    distribution: Distribution | None = None,
) -> LocalEngine:
    """Return the engine for a model. Raises RecipeError if it does not support the distribution.

    Without a `distribution`, the temperature and top-p of the settings apply.
    """
    if name == BATCHED:
        from finetune.training.sampling.batched import BatchedEngine

        return BatchedEngine(model, chat, config, distribution)
    return SeededEngine(model, chat, config, distribution)

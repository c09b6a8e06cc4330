"""What the engines that sample from a model on this machine have in common."""

from typing import Any

from finetune.settings import SamplingConfig
from finetune.training.models.language_model import PolicyChat
from finetune.training.sampling.distribution import Distribution


class OwnModel:
    """A model in memory with its chat format and its sampling.

    Without a `distribution`, the temperature and top-p of the settings apply. `rows_at_once` is the number of
    responses that are sampled at the same time; the engine lowers it if memory runs out.
    """

    def __init__(
        self,
        model: Any,
        chat: PolicyChat,
        config: SamplingConfig,
        distribution: Distribution | None = None,
    ):
        self.model = model
        self.chat = chat
        self.config = config
        self.distribution = distribution or Distribution.of_settings(config)
        self.rows_at_once = config.batch_size

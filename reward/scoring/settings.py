"""The settings of the recipe that scores the responses of a project. torch is not imported."""

from dataclasses import MISSING, dataclass

from recipes.settings import RecipeConfig, option


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(RecipeConfig):
    reward_model: str = option(MISSING, "The output folder of a run that trained a reward model.")
    batch_tokens: int = option(
        8192,
        "The number of tokens in a forward pass. It changes memory and speed, but not the "
        "scores. It is halved automatically if memory runs out.",
        label="Tokens per forward pass",
        min=64,
        max=2**22,
    )
    keep_features: bool = option(
        True,
        "Keep 64 features of the last layer with each score. They are needed to order the queue "
        "by expected information.",
        advanced=True,
    )

    @property
    def dims(self) -> int:
        """Return the number of features per response.

        It is the same for all runs, so that their features can be used together.
        """
        return 64 if self.keep_features else 0

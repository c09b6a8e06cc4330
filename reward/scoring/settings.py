"""The settings of the recipe that scores the responses of a project. Without torch."""

from dataclasses import MISSING, dataclass

from recipes.settings import RecipeConfig, option


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(RecipeConfig):
    reward_model: str = option(MISSING, "The output folder of a reward run.")
    batch_tokens: int = option(
        8192,
        "Tokens per forward pass. Changes memory and speed, not the scores. Halved automatically "
        "when memory runs out.",
        label="Tokens per forward pass",
        min=64,
        max=2**22,
    )
    keep_features: bool = option(
        True,
        "Keep 64 features of the last layer with each score. Ordering the queue by expected "
        "information needs them.",
        advanced=True,
    )

    @property
    def dims(self) -> int:
        """Return the number of features per response, the same for all runs so that they can be combined."""
        return 64 if self.keep_features else 0

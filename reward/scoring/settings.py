"""The settings of the recipe that scores a project's responses. Torch-free, as the others are."""

from dataclasses import MISSING, dataclass

from recipes.settings import RecipeConfig, option


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(RecipeConfig):
    reward_model: str = option(MISSING, "The folder that a reward run published.")
    batch_tokens: int = option(
        8192,
        "Tokens in one forward pass. Changes memory and speed, not the scores. Halved by itself "
        "when memory runs out.",
        label="Tokens at once",
        min=64,
        max=2**22,
    )
    keep_features: bool = option(
        True,
        "Keep 64 numbers of the last layer with each score. From them it follows what ranking a "
        "task would teach; without them the queue cannot be put in order.",
        advanced=True,
    )

    @property
    def dims(self) -> int:
        """A wider layer is projected. One size for all, so that scores of two runs go together."""
        return 64 if self.keep_features else 0

"""The settings of the recipes that train reward models and export them to ONNX.

The web form is made from them, so torch is not imported.
"""

from dataclasses import MISSING, dataclass

from recipes.presets import BEST_QUALITY, SMALL_GPU
from recipes.settings import RecipeConfig, option
from recipes.training_settings import PreferenceSettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class RewardConfig(PreferenceSettings, TrainingSettings):
    """Settings for training a reward model."""

    preset_values = {
        BEST_QUALITY: {"heads": 8},
        SMALL_GPU: {"gradient_checkpointing": True},
    }

    base_model: str = option(
        MISSING,
        "The base model: a folder, a Hugging Face name, or name@revision.",
    )
    epochs: float = option(
        2.0,
        "How many times training passes over the training prompts. Reward models overfit "
        "quickly; one or two passes are usual.",
        min=0.01,
        max=50,
        unit="passes",
    )
    learning_rate: float = option(
        2e-4,
        "The peak learning rate. With LoRA, 1e-4 to 3e-4 is usual; training of all weights "
        "needs a rate about ten times lower.",
        min=1e-8,
        max=1.0,
    )
    lora_dropout: float = option(
        0.05,
        "The dropout in the LoRA matrices, as a share from 0 to 0.9. Batching, packing and "
        "layout change which units are dropped. With 0, they change the result by rounding "
        "only.",
        label="LoRA dropout",
        min=0,
        max=0.9,
        unit="share",
    )
    heads: int = option(
        1,
        "The number of score heads on the backbone. Each head is trained on its own bootstrap "
        "sample of the prompts. The score is the mean of the heads, and its uncertainty is "
        "their standard deviation. Several heads cost little more than one; 8 is a good number.",
        min=1,
        max=64,
        unit="heads",
    )
    criteria_weight: float = option(
        0.0,
        "The weight of the ratings of single criteria relative to the rankings. Each rated "
        "criterion gets its own score and a row in the report. With 0, ratings are not used.",
        label="Weight of the criteria",
        min=0,
        max=100,
        advanced=True,
    )
    learning_curve: int = option(
        0,
        "How many times the training prompts are halved for the learning curve. With 4, models "
        "are also trained on a half, a quarter, an eighth and a sixteenth of the prompts, to "
        "forecast the accuracy with more rankings. This nearly doubles the time. The curve "
        "needs at least 3 halvings; 0 turns it off.",
        label="Halvings for the learning curve",
        min=0,
        max=8,
        advanced=True,
        unit="halvings",
    )
    label_mistakes: int = option(
        0,
        "The number of parts into which the training prompts are divided to find label "
        "mistakes, which are rankings that were probably entered by mistake. Each part is "
        "checked by a model trained on the other parts, so 5 parts take the time of four more "
        "trainings, and 2 parts that of one. With 0, only held-out rankings are checked, which "
        "takes no extra time.",
        label="Parts for finding label mistakes",
        min=0,
        max=20,
        advanced=True,
        unit="parts",
    )
    lora_r: int = option(
        16,
        "The rank of the LoRA matrices. With 0, all weights are trained and a complete model is "
        "saved.",
        label="LoRA rank",
        min=0,
        max=1024,
    )
    max_tokens: int | None = option(
        None,
        "The maximum number of tokens in a prompt and a response together. Longer responses are "
        "left out and counted; they are never truncated. If empty, the limit of the model "
        "applies.",
        label="Longest input",
        min=8,
        advanced=True,
        unit="tokens",
    )
    gradient_checkpointing: bool = option(
        False,
        "Recompute activations in the backward pass. This takes less memory, but about a third "
        "more time.",
        advanced=True,
    )

    def conflicts(self) -> dict[str, str]:
        if conflicts := super().conflicts():
            return conflicts
        if self.learning_curve in (1, 2):
            return {"learning_curve": "A learning curve needs 3 halvings or more, or 0 for none."}
        if self.label_mistakes == 1:
            return {
                "label_mistakes": "Use 2 parts or more, or 0. One part leaves nothing to train on."
            }
        if self.quantize != "none" and not self.lora_r:
            text = "LoRA rank 0 trains all weights, but four-bit weights cannot be trained."
            return {"quantize": text}
        return {}

    def unused(self) -> dict[str, str]:
        reasons = super().unused()
        if not self.lora_r:
            text = "It has no effect with LoRA rank 0, which trains all weights."
            reasons |= dict.fromkeys(("lora_alpha", "lora_dropout", "lora_variant"), text)
        return reasons


@dataclass(frozen=True, kw_only=True)
class OnnxConfig(RecipeConfig):
    """Settings for the export of a reward model to ONNX."""

    reward_model: str = option(MISSING, "The output folder of a run that trained a reward model.")

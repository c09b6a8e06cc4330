"""The settings of the reward-model recipe. The web form is made from them, so torch is not imported."""

from dataclasses import MISSING, dataclass

from recipes.settings import option
from recipes.training_settings import PreferenceSettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class RewardConfig(PreferenceSettings, TrainingSettings):
    base_model: str = option(
        MISSING,
        "The base model: a folder, a Hugging Face name, or name@revision.",
    )
    epochs: float = option(
        2.0,
        "Passes over the training prompts. Reward models overfit quickly; one or two are usual.",
        min=0.01,
        max=50,
    )
    learning_rate: float = option(
        2e-4,
        "Peak learning rate. 1e-4 to 3e-4 for LoRA; about ten times lower for full training.",
        min=1e-8,
        max=1.0,
    )
    lora_dropout: float = option(
        0.05,
        "Dropout in the LoRA matrices. It depends on batching, packing and layout. With 0, "
        "these change results by rounding only.",
        label="LoRA dropout",
        min=0,
        max=0.9,
    )
    heads: int = option(
        1,
        "Score heads on one backbone, each trained on a bootstrap sample of the prompts. The score is "
        "their mean, and their standard deviation is its uncertainty. Several heads cost little more than "
        "one; 8 is a good number.",
        min=1,
        max=64,
    )
    criteria_weight: float = option(
        0.0,
        "Weight of the ratings of single criteria relative to the rankings. Each rated criterion gets its "
        "own score and a row in the report. 0: ratings are not used.",
        label="Weight of the criteria",
        min=0,
        max=100,
        advanced=True,
    )
    learning_curve: int = option(
        0,
        "Number of halvings of the prompts for the learning curve. With 4, models are also trained on a "
        "half, a quarter, an eighth and a sixteenth of the prompts, to forecast the accuracy with more "
        "rankings. Nearly doubles the time. 3 or more; 0: no learning curve.",
        label="Halvings for the learning curve",
        min=0,
        max=8,
        advanced=True,
    )
    label_mistakes: int = option(
        0,
        "Number of parts of the training prompts for finding label mistakes, which are rankings that "
        "were probably entered by mistake. A model trained on the other parts checks each part, so 5 parts "
        "take the time of four more trainings, and 2 parts of one. 0: only held-out rankings are checked, at no cost.",
        label="Parts for finding label mistakes",
        min=0,
        max=20,
        advanced=True,
    )
    lora_r: int = option(
        16,
        "Rank of the LoRA matrices. 0 trains all weights and saves a complete model.",
        label="LoRA rank",
        min=0,
        max=1024,
    )
    max_tokens: int | None = option(
        None,
        "Maximum tokens of prompt and response together. Longer responses are left out and counted, "
        "never truncated. Empty: the model's limit.",
        label="Longest input",
        min=8,
        advanced=True,
    )
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, more time.", advanced=True
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

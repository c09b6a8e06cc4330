"""RLOO: REINFORCE with a leave-one-out baseline on the model's own samples, scored by a reward model.

The method is that of Ahmadian et al. 2024, arXiv:2402.14740, section 2.2. Each step the model samples
K responses to each prompt, and the reward model scores them. The reward of a response is its score
minus the log-ratio to the model before training,

    R_i = r_i - β (log π(y_i | x) - log π_ref(y_i | x))

and its advantage is R_i minus the mean R of the other K - 1 responses to its prompt. A response is
one action: with its ratio ρ = π(y_i | x) / π_old(y_i | x) to the model that sampled it, the loss is

    -min(ρ A_i, clip(ρ, 1 - ε, 1 + ε) A_i)

averaged over responses. At the first update ρ = 1, and the gradient is that of REINFORCE. TRL's
RLOOTrainer computes the loss.

`finetune/training/policy_gradient.py` runs the steps. `rewarded_trainer.py` next to it replaces TRL's
sampling, and `sampling/seeded.py` draws the tokens.
"""

from dataclasses import dataclass
from typing import Any

from finetune.methods.method import PolicyGradientMethod
from finetune.settings import PolicyGradientSettings
from recipes.settings import option


@dataclass(frozen=True, kw_only=True)
class RLOOSettings(PolicyGradientSettings):
    """Settings for REINFORCE with a leave-one-out baseline."""

    beta: float = option(
        0.05,
        "How strongly the model is pulled towards the original model: the reward of a response is "
        "its score minus beta times its log-ratio to that model. With 0, the forward pass of the "
        "original model is skipped, but nothing stops the model from exploiting errors of the "
        "reward model.",
        min=0,
        max=10.0,
        label="Beta (β)",
    )
    normalise_advantages: bool = option(
        False,
        "Divide the advantages of a step by their standard deviation, so that the scale of the "
        "scores has no effect on the size of the steps.",
        label="Normalise advantages",
        advanced=True,
    )


class RLOO(PolicyGradientMethod):
    name = "rloo"
    title = "LoRA fine-tune (RLOO)"
    description = "Fine-tunes a model towards higher scores of a reward model, by REINFORCE."
    paper = "REINFORCE Leave-One-Out (Ahmadian et al. 2024, arXiv:2402.14740)"
    settings = RLOOSettings
    config: RLOOSettings

    def trainer_classes(self) -> tuple[type, type]:
        from trl import RLOOConfig, RLOOTrainer

        return RLOOTrainer, RLOOConfig

    def arguments(self) -> dict[str, Any]:
        return {"normalize_advantages": self.config.normalise_advantages}


METHOD = RLOO

"""GRPO: Group Relative Policy Optimization on the model's own samples, scored by a reward model.

The method is that of Shao et al. 2024, arXiv:2402.03300, section 4.1. Each step the model samples K
responses to each prompt, and the reward model scores them. With the rewards r of a prompt's group,
the advantage of response i is

    A_i = (r_i - mean(r)) / (std(r) + 10⁻⁴)

and the loss of its token t, with the ratio ρ = π(t) / π_old(t) to the model that sampled,

    -min(ρ A_i, clip(ρ, 1 - ε, 1 + ε) A_i) + β KL(π ‖ π_ref)

where KL is estimated per token from the samples (Schulman's k3, weighted by ρ). The reference is the
model before training. TRL's GRPOTrainer computes the loss.

`scale_rewards: none` leaves out the division by std(r), and `average: constant` divides the sum over
tokens by the longest response instead of the actual length. Both together are Dr. GRPO (Liu et al.
2025, arXiv:2503.20783). `average: tokens` is that of DAPO (Yu et al. 2025, arXiv:2503.14476).

`finetune/training/policy_gradient.py` runs the steps. `rewarded_trainer.py` next to it replaces TRL's
sampling, and `sampling/seeded.py` draws the tokens.
"""

from dataclasses import dataclass
from typing import Any

from finetune.methods.method import PolicyGradientMethod
from finetune.settings import PolicyGradientSettings
from recipes.settings import option

LOSSES = {"tokens": "dapo", "responses": "grpo", "constant": "dr_grpo"}
"""TRL's name of the loss for each choice of `average`."""


@dataclass(frozen=True, kw_only=True)
class GRPOSettings(PolicyGradientSettings):
    """Settings for Group Relative Policy Optimization."""

    beta: float = option(
        0.04,
        "How strongly the model is pulled towards the original model: the weight of the KL "
        "divergence per token in the loss. With 0, the forward pass of the original model is "
        "skipped, but nothing stops the model from exploiting errors of the reward model.",
        min=0,
        max=10.0,
        label="Beta (β)",
    )
    scale_rewards: str = option(
        "group",
        "What rewards are divided by. With group, as published, it is the standard deviation of "
        "the group, so that a prompt with similar responses counts as much as others. With batch, "
        "it is the standard deviation of all responses of a step. With none, rewards are not "
        "divided (Dr. GRPO).",
        choices=("group", "batch", "none"),
        label="Scale of rewards",
    )
    average: str = option(
        "tokens",
        "How the loss is averaged. With tokens, all tokens of a step have the same weight (DAPO). "
        "With responses, as published, all responses have the same weight, so the tokens of long "
        "bad responses are punished less. With constant, the sum over tokens is divided by the "
        "maximum length of a response (Dr. GRPO).",
        choices=tuple(LOSSES),
        label="Average over tokens",
        advanced=True,
    )


class GRPO(PolicyGradientMethod):
    name = "grpo"
    title = "LoRA fine-tune (GRPO)"
    description = "Fine-tunes a model towards higher scores of a reward model, compared in groups."
    paper = "Group Relative Policy Optimization (Shao et al. 2024, arXiv:2402.03300)"
    settings = GRPOSettings
    config: GRPOSettings

    def trainer_classes(self) -> tuple[type, type]:
        from trl import GRPOConfig, GRPOTrainer

        return GRPOTrainer, GRPOConfig

    def arguments(self) -> dict[str, Any]:
        return {
            "scale_rewards": self.config.scale_rewards,
            "loss_type": LOSSES[self.config.average],
        }


METHOD = GRPO

"""Direct Preference Optimization over whole rankings.

DPO (Rafailov et al. 2023, arXiv:2305.18290) trains the implicit reward of a response,

    r = β · (log π(y | x) - log π_ref(y | x)),

like the score of a reward model. Here, one loss contains all K responses to a prompt, as in the
Plackett-Luce model of that paper (appendix A.3) and in LiPO (Liu et al. 2024, arXiv:2402.01878). The
loss is the one of `recipes/preferences/loss.py`, so ties, strengths, weights and the unacceptable line
have the same meaning as in a reward model. With K = 2 and without ties, it is the published loss.

Options that change the reward or the loss:

length_normalised   divides log π and log π_ref by the number of tokens of the response (Meng et al.
                    2024, arXiv:2405.14734, section 2.2)
reference_free      leaves out log π_ref (the same paper)
sft_weight          adds -log π per token of the best response (Pang et al. 2024,
                    arXiv:2404.19733, equation 2)
label_smoothing     with `smoothing` conservative (Mitchell 2023) or robust (Chowdhury et al. 2024,
                    arXiv:2403.00409, equation 12)

Legend: G groups, K responses in the largest group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from finetune.methods.method import Batch, Loss, Method, PolicyOutputs
from finetune.settings import ReferenceSettings
from recipes.preferences.best import best_responses
from recipes.preferences.groups import Group
from recipes.preferences.loss_inputs import LossInputs, loss_inputs
from recipes.settings import option
from recipes.training_settings import PreferenceSettings

if TYPE_CHECKING:
    from torch import Tensor

    from recipes.preferences.tokens import Prepared


@dataclass(frozen=True, kw_only=True)
class DPOSettings(PreferenceSettings, ReferenceSettings):
    """Settings for fine-tuning a LoRA adapter by Direct Preference Optimization."""

    length_normalised: bool = option(
        False,
        "Divide the log-probability of a response by its number of tokens, so that long "
        "responses do not dominate. Use a beta about ten times larger with it.",
        label="Normalise by length",
        advanced=True,
    )
    reference_free: bool = option(
        False,
        "Train on the log-probabilities themselves instead of their change from the original "
        "model. This saves the pass for the reference, but the model may drift further.",
        label="Without a reference",
        advanced=True,
    )
    sft_weight: float = option(
        0.0,
        "The weight of the negative log-probability per token of the best response. This term "
        "keeps the best response likely. 0 turns it off; 0.1 to 1 is usual.",
        label="Weight of the best response",
        min=0,
        max=100,
        advanced=True,
    )

    # The objective is also that of reward models, which can have several heads and rate criteria.

    @property
    def heads(self) -> int:
        return 1

    @property
    def criteria_weight(self) -> float:
        return 0.0


class DPO(Method):
    name = "dpo"
    title = "LoRA fine-tune (DPO)"
    description = "Fine-tunes a model on reviewers' preferences, as a LoRA adapter."
    paper = "Direct Preference Optimization (Rafailov et al. 2023, arXiv:2305.18290)"
    settings = DPOSettings
    config: DPOSettings

    def loss_inputs(self, group: Group) -> LossInputs:
        order = loss_inputs(group, self.config)
        if not self.config.sft_weight:
            return order
        return replace(order, signals={**order.signals, "best": best_responses(group)})

    def prepare(self, prepared: "Prepared") -> None:
        prepared.make_weights_relative()

    @property
    def trains_on_reference(self) -> bool:
        return not self.config.reference_free

    def loss(self, groups: Sequence[Group]) -> Loss:
        from recipes.preferences.objective import Objective

        objective = Objective.of(self.config, groups)

        def loss(outputs: PolicyOutputs, batch: Batch) -> tuple["Tensor", "Tensor"]:
            reference = batch.get("reference", 0.0)
            scores = self.scores(outputs["logps"], reference, outputs["counts"])  # (G, K)
            losses = objective.losses(scores[..., None], batch)  # (G,)
            if self.config.sft_weight:
                per_token = outputs["logps"] / outputs["counts"].clamp(min=1)  # (G, K)
                lost = -(batch["best"] * per_token).sum(dim=-1)  # (G,)
                weight = batch.get("weight", 1.0)
                losses = losses + self.config.sft_weight * weight * lost
            return losses, scores

        return loss

    def scores(self, logps: Any, reference: Any, counts: Any) -> Any:
        change = logps if self.config.reference_free else logps - reference
        if self.config.length_normalised:
            change = change / counts.clip(min=1)
        return self.config.beta * change


METHOD = DPO

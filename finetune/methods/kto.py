"""KTO: training on acceptable and unacceptable responses, without comparisons between them.

The method is that of Ethayarajh et al. 2024, arXiv:2402.01306, equation 7. With the implicit reward

    r = log π(y | x) - log π_ref(y | x)

the loss of a response is

    λ_D · (1 - σ(β (r - z0)))   if it is acceptable (desirable)
    λ_U · (1 - σ(β (z0 - r)))   if it is not

and the loss of a step is the mean over its responses. z0 is the mean of r over mismatched pairs, in
which each response follows a prompt that it was not written for. It is at least 0 and has no
gradient. It estimates KL(π ‖ π_ref), which is the reward that every response gains because the model
drifts as a whole.

A response is acceptable if most of its reviewers put it above their unacceptable line, and
unacceptable if most put it below. Responses without a majority and rankings without a line are not
used.

Differences from TRL's KTOTrainer, which has the same loss for the same z0:
- z0 is estimated once per step, over all its prompts, so the size of a forward pass has no effect.
- The responses that follow a prompt in the mismatched pairs are always those of the next prompt in
  the data. So log π_ref of the mismatched pairs is computed once and cached.

`reference_point: zero` leaves out z0 and its forward pass. It is the loss APO-zero for unpaired data
(D'Oosterlinck et al. 2024, arXiv:2408.06266).

Legend: G groups, K responses in the largest group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.methods.method import Batch, Loss, Method, PolicyOutputs
from finetune.settings import ReferenceSettings
from recipes.errors import RecipeError
from recipes.preferences.groups import Group, line
from recipes.preferences.loss_inputs import LossInputs, plain_loss_inputs
from recipes.settings import option

if TYPE_CHECKING:
    from torch import Tensor

    from recipes.preferences.tokens import Prepared, TokenGroup

HIGHEST_RATIO = 4 / 3
"""The upper end of the recommended range: λ_D n_D is 1 to 4/3 times λ_U n_U (equation 8)."""
PARTNERS = 20
"""The number of other prompts that are tried to find one whose responses are short enough."""


@dataclass(frozen=True, kw_only=True)
class KTOSettings(ReferenceSettings):
    """Settings for fine-tuning a LoRA adapter by KTO."""

    desirable_weight: float = option(
        1.0,
        "The weight of each acceptable response. The weights of all acceptable responses should "
        "add up to 1 to 1.33 times those of all unacceptable ones. The run reports this ratio.",
        min=0,
        max=100,
        label="Weight of acceptable responses",
    )
    undesirable_weight: float = option(
        1.0,
        "The weight of each unacceptable response.",
        min=0,
        max=100,
        label="Weight of unacceptable responses",
    )
    reference_point: str = option(
        "kl",
        "The reward from which gains and losses are counted. kl uses the mean reward of "
        "responses to other prompts, as published, which takes one more forward pass. zero uses "
        "0 and is faster.",
        choices=("kl", "zero"),
        advanced=True,
    )

    def conflicts(self) -> dict[str, str]:
        if conflicts := super().conflicts():
            return conflicts
        if not (self.desirable_weight or self.undesirable_weight):
            return {"desirable_weight": "One of the two weights must be above 0."}
        return {}


class KTO(Method):
    name = "kto"
    title = "LoRA fine-tune (KTO)"
    description = "Fine-tunes a model on acceptable and unacceptable responses."
    paper = "KTO (Ethayarajh et al. 2024, arXiv:2402.01306)"
    settings = KTOSettings
    config: KTOSettings
    lacking = "a response that most reviewers put above or below their unacceptable line"

    def loss_inputs(self, group: Group) -> LossInputs:
        above, below = line(group)
        signals = {
            "desirable": (above > below).astype(np.float32),
            "undesirable": (below > above).astype(np.float32),
        }
        return replace(plain_loss_inputs(group), signals=signals)

    def objection(self, group: Group, inputs: LossInputs) -> str | None:
        """Return the reason to leave out a group, as a clause, or None.

        A held-out group is also used if it has no labels but an order.
        """
        if inputs.signals["desirable"].any() or inputs.signals["undesirable"].any():
            return None
        if group.split == "test" and inputs.wins.any():
            return None
        if not group.responses:
            return "no readable response"
        if all(ranking.cut is None for ranking in group.rankings):
            return "no ranking has an unacceptable line"
        return "as many reviewers accept as reject each response"

    def trained_responses(self, group: "TokenGroup") -> list[bool]:
        weights = group.signals["desirable"] + group.signals["undesirable"]
        return [bool(weight) for weight in weights]

    def prepare(self, prepared: "Prepared") -> None:
        train = prepared.tokens["train"]
        train[:] = [_labelled_part(group) for group in train]
        desirable, undesirable = counts(train)
        if not desirable or not undesirable:
            side = "acceptable" if desirable else "unacceptable"
            raise RecipeError(
                f"KTO needs acceptable and unacceptable responses, but all {desirable + undesirable} "
                f"responses of the train split on one side of the line are {side}. Freeze a snapshot "
                "with both, or use a method that learns from the order, such as dpo."
            )
        if self.config.reference_point == "kl":
            train[:] = mismatched(train)

    def notes(self, prepared: "Prepared") -> list[str]:
        desirable, undesirable = counts(prepared.tokens["train"])
        config = self.config
        text = f"{desirable} acceptable and {undesirable} unacceptable responses to train on."
        below = config.undesirable_weight * undesirable
        if not below:
            return [text]
        ratio = config.desirable_weight * desirable / below
        text += f" Weighted, the acceptable ones are {ratio:.2f} times the others"
        if 1 <= round(ratio, 2) <= round(HIGHEST_RATIO, 2):
            return [f"{text}, as recommended."]
        low, high = (below * factor / desirable for factor in (1, HIGHEST_RATIO))
        return [
            f"{text}; 1 to 1.33 times is recommended, which is a desirable_weight of {low:.3g} to "
            f"{high:.3g}."
        ]

    def learned_from(self, prepared: "Prepared") -> str:
        train = prepared.tokens["train"]
        desirable, undesirable = counts(train)
        return f"{desirable} acceptable and {undesirable} unacceptable responses to {len(train)} prompts"

    def loss(self, groups: Sequence[Group]) -> Loss:
        config = self.config

        def loss(outputs: PolicyOutputs, batch: Batch) -> tuple["Tensor", "Tensor"]:
            rewards = outputs["logps"] - batch["reference"]  # (G, K)
            desirable, undesirable = batch["desirable"], batch["undesirable"]  # (G, K)
            z0 = batch["drift"].clamp(min=0) if "drift" in batch else 0.0
            gains = (desirable - undesirable) * config.beta * (rewards - z0)
            weights = config.desirable_weight * desirable + config.undesirable_weight * undesirable
            labelled = (desirable + undesirable).sum(dim=-1)  # (G,)
            losses = (weights * (1 - gains.sigmoid())).sum(dim=-1) / labelled.clamp(min=1)
            return losses, config.beta * rewards

        return loss

    def scores(self, logps: Any, reference: Any, counts: Any) -> Any:
        return self.config.beta * (logps - reference)


def counts(groups: Sequence["TokenGroup"]) -> tuple[int, int]:
    """Return the numbers of acceptable and of unacceptable responses."""
    signals = [group.signals for group in groups]
    desirable = sum(int(s["desirable"].sum()) for s in signals)
    return desirable, sum(int(s["undesirable"].sum()) for s in signals)


def _labelled_part(group: "TokenGroup") -> "TokenGroup":
    """Return the group with only its labelled responses, and their number as its `items`."""
    desirable, undesirable = group.signals["desirable"], group.signals["undesirable"]
    labelled = np.flatnonzero(desirable + undesirable).tolist()
    return group.only(
        labelled,
        desirable=desirable[labelled],
        undesirable=undesirable[labelled],
        items=np.asarray(len(labelled), dtype=np.float32),
    )


def mismatched(groups: Sequence["TokenGroup"]) -> list["TokenGroup"]:
    """Return the groups with mismatched responses, which are the responses of another prompt.

    The other prompt is the next one, unless its responses are too long: no mismatched pair may be
    longer than the longest group, so that it does not take more memory. A group gets no mismatched
    responses if those of all prompts that are tried are too long.
    """
    longest = max(group.longest() for group in groups)
    return [
        replace(group, mismatched=_mismatched(groups, number, longest))
        for number, group in enumerate(groups)
    ]


def _mismatched(groups: Sequence["TokenGroup"], number: int, longest: int) -> "TokenGroup | None":
    group = groups[number]
    for step in range(1, min(len(groups), PARTNERS + 1)):
        other = groups[(number + step) % len(groups)]
        fitting = [r for r in other.responses if len(group.prompt) + len(r) <= longest]
        if fitting and not np.array_equal(group.prompt, other.prompt):
            wins = np.zeros((len(fitting),) * 2, dtype=np.float32)
            return replace(group, responses=fitting, wins=wins, signals={})
    return None


METHOD = KTO

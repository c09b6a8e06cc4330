"""Supervised fine-tuning (SFT), which raises the likelihood of the best responses.

The loss is the mean of

    -log π(token | prompt, earlier tokens of the response)

over all tokens of the best acceptable responses of a step, as in TRL's SFTTrainer with
`completion_only_loss`. The model reads the tokens of the prompt, but they are not part of the loss.
So all tokens of a step have the same weight, whatever their response, prompt or forward pass.

recipes/preferences/best.py defines the best responses. A prompt that nobody ranked is a plain chat,
and all its responses are used. With `tied_best: share`, each token of n tied responses counts 1/n.

The method needs no reference. The log-probabilities of the original model are computed only for the
report, on held-out prompts.

Legend: G groups, K responses in the largest group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from finetune.methods.method import Batch, Loss, Method, PolicyOutputs
from finetune.settings import FinetuneSettings
from recipes.preferences.best import best_responses
from recipes.preferences.groups import Group, line
from recipes.preferences.loss_inputs import LossInputs, plain_loss_inputs
from recipes.settings import option

if TYPE_CHECKING:
    from torch import Tensor

    from recipes.preferences.tokens import Prepared, TokenGroup


@dataclass(frozen=True, kw_only=True)
class SFTSettings(FinetuneSettings):
    """Settings for supervised fine-tuning of a LoRA adapter."""

    learning_rate: float = option(
        1e-4,
        "The peak learning rate. For models with a billion weights or more, 5e-5 to 2e-4 is "
        "usual. Smaller models need a higher rate.",
        min=1e-8,
        max=1.0,
    )
    min_margin: float = option(
        0.0,
        "Leave out prompts whose best response has a smaller margin. The margin is the "
        "response's wins minus its losses, divided by its comparisons: 0.5 for three wins in "
        "four. With 0, no prompt is left out.",
        min=0,
        max=1,
        label="Smallest margin",
        unit="share",
    )
    tied_best: str = option(
        "share",
        "How responses that tie for the best are weighted. share divides the weight of one "
        "response between them. all gives each of them the full weight.",
        choices=("share", "all"),
        label="Tied best responses",
        advanced=True,
    )


class SFT(Method):
    name = "sft"
    title = "LoRA fine-tune (SFT)"
    description = "Fine-tunes a model on the best responses of each prompt, or on plain chats."
    paper = "supervised fine-tuning"
    settings = SFTSettings
    config: SFTSettings
    trains_on_reference = False
    lacking = "a best acceptable response"

    def loss_inputs(self, group: Group) -> LossInputs:
        share = self.config.tied_best == "share"
        best = best_responses(group, min_margin=self.config.min_margin, share=share)
        return replace(plain_loss_inputs(group), signals={"best": best})

    def objection(self, group: Group, inputs: LossInputs) -> str | None:
        if inputs.signals["best"].any():
            return None
        if not group.responses:
            return "no readable response"
        if group.rankings and not inputs.wins.any():
            return super().objection(group, inputs)
        above, below = line(group)
        if (below > above).all():
            return "all responses are unacceptable"
        if best_responses(group).any():
            return f"the best response wins by a margin under {self.config.min_margin:g}"
        return "no acceptable response was compared"

    def prepare(self, prepared: "Prepared") -> None:
        train = prepared.tokens["train"]
        train[:] = [_only_best(group) for group in train]

    def trained_responses(self, group: "TokenGroup") -> list[bool]:
        return [True] * len(group.responses)  # `prepare` has removed the others

    def notes(self, prepared: "Prepared") -> list[str]:
        train = prepared.tokens["train"]
        responses = sum(len(group.responses) for group in train)
        tokens = sum(int(group.lengths().sum()) for group in train)
        return [f"{responses} responses with {tokens} tokens to train on."]

    def learned_from(self, prepared: "Prepared") -> str:
        train = prepared.tokens["train"]
        responses = sum(len(group.responses) for group in train)
        return f"{responses} best or only responses to {len(train)} prompts"

    def loss(self, groups: Sequence[Group]) -> Loss:
        def loss(outputs: PolicyOutputs, batch: Batch) -> tuple["Tensor", "Tensor"]:
            logps, best = outputs["logps"], batch["best"]  # (G, K)
            tokens = (best * outputs["counts"]).sum(dim=-1)  # (G,)
            return -(best * logps).sum(dim=-1) / tokens.clamp(min=1e-6), logps

        return loss


def _only_best(group: "TokenGroup") -> "TokenGroup":
    """Return the group with only its best responses, and the number of their tokens as `items`."""
    best = group.signals["best"]
    items = np.asarray((best * group.lengths()).sum(), dtype=np.float32)
    chosen = np.flatnonzero(best).tolist()
    return group.only(chosen, best=best[chosen], items=items)


METHOD = SFT

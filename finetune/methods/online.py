"""On-policy rounds: DPO on the model's own samples, ranked by a reward model.

In each round, the current model samples K responses to each prompt, the reward model scores them, and
DPO is trained on the whole rankings. This is semi-online DPO (Lanchantin et al. 2025,
arXiv:2506.21495), in which the sampling model is updated once per round. With a single round, it is
offline DPO on samples of the original model. The reference is the original model in all rounds.

`finetune/training/online.py` runs the rounds.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.methods.dpo import DPO, DPOSettings
from finetune.methods.method import SampledMethod
from finetune.settings import RankedSamplesSettings
from recipes.presets import BEST_QUALITY, QUICK_LOOK
from recipes.settings import option

if TYPE_CHECKING:
    from recipes.preferences.tokens import Prepared


@dataclass(frozen=True, kw_only=True)
class OnlineSettings(RankedSamplesSettings, DPOSettings):
    """Settings for on-policy rounds of Direct Preference Optimization."""

    preset_values = {QUICK_LOOK: {"rounds": 1}, BEST_QUALITY: {"epochs": 1.0, "rounds": 6}}

    rounds: int = option(
        3,
        "The number of rounds. In each round, the model samples responses and is trained on "
        "their ranking for the given number of epochs.",
        min=1,
        max=100,
        unit="rounds",
    )

    @property
    def number_of_rounds(self) -> int:
        return self.rounds


class Online(SampledMethod, DPO):
    name = "online"
    title = "LoRA fine-tune (on-policy DPO)"
    description = "Fine-tunes a model on its own samples, which a reward model ranks, in rounds."
    paper = "semi-online Direct Preference Optimization (Lanchantin et al. 2025, arXiv:2506.21495)"
    settings = OnlineSettings
    config: OnlineSettings

    def learned_from(self, prepared: "Prepared") -> str:
        config, prompts = self.config, len(prepared.groups["train"])
        rounds = "1 round" if config.rounds == 1 else f"{config.rounds} rounds"
        return (
            f"{rounds} of {config.samples_per_prompt} samples of its own to each prompt, ranked by a "
            f"reward model (in the last round, {prompts} prompts)"
        )


METHOD = Online

"""Best-of-n distillation: supervised fine-tuning on the best of n samples of the model itself.

The model samples n responses to each prompt, a reward model scores them, and SFT trains the model on
the best one. This is rejection sampling fine-tuning, as in Touvron et al. 2023, arXiv:2307.09288,
section 3.2.3. The choice of the best of n raises the score, and the divergence from the original model
is at most log n - (n - 1)/n nats (Beirami et al. 2024, arXiv:2401.01879).

A run is one round of `finetune/training/online.py`, with another loss.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.methods.method import SampledMethod
from finetune.methods.sft import SFT, SFTSettings
from finetune.settings import RankedSamplesSettings
from recipes.presets import BEST_QUALITY, QUICK_LOOK
from recipes.settings import option

if TYPE_CHECKING:
    from recipes.preferences.tokens import Prepared


# SFTSettings comes first, because its default of the learning rate applies.
@dataclass(frozen=True, kw_only=True)
class BestOfNSettings(SFTSettings, RankedSamplesSettings):
    """Settings for supervised fine-tuning on the best of n samples."""

    preset_values = {
        QUICK_LOOK: {"samples_per_prompt": 4},
        BEST_QUALITY: {"samples_per_prompt": 16},
    }

    samples_per_prompt: int = option(
        8,
        "The number of responses (n) that the model samples for each prompt, of which it learns "
        "the best. With more samples, the best one is better, and the model changes more.",
        label="Responses per prompt",
        min=2,
        max=64,
        unit="responses",
    )


class BestOfN(SampledMethod, SFT):
    name = "best_of_n"
    title = "LoRA fine-tune (best of n)"
    description = "Fine-tunes a model on the best of its own samples, chosen by a reward model."
    paper = "best-of-n distillation (rejection sampling, Touvron et al. 2023, arXiv:2307.09288)"
    settings = BestOfNSettings
    config: BestOfNSettings

    def learned_from(self, prepared: "Prepared") -> str:
        train = prepared.tokens["train"]
        return (
            f"the best of {self.config.samples_per_prompt} samples of its own to each of {len(train)} "
            "prompts, chosen by a reward model"
        )


METHOD = BestOfN

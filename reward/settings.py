"""The settings of the reward-model recipe. Torch-free: the web form is made from this class."""

from dataclasses import MISSING, dataclass

from recipes.settings import option
from recipes.training_settings import PreferenceSettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class RewardConfig(PreferenceSettings, TrainingSettings):
    base_model: str = option(
        MISSING,
        "The model to start from: a folder, a Hugging Face name, or name@revision.",
    )
    epochs: float = option(
        2.0,
        "How often each prompt is seen. Reward models overfit fast: one or two is usual.",
        min=0.01,
        max=50,
    )
    learning_rate: float = option(
        2e-4,
        "Peak learning rate. 1e-4 to 3e-4 suits LoRA; about ten times less when every weight is trained.",
        min=1e-8,
        max=1.0,
    )
    tokens_at_once: int | None = option(
        None,
        "Most tokens forwarded at once, besides the number of prompts. The prompts of a step are "
        "sorted by length and cut into parts that fit, so memory follows the texts; a longer prompt "
        "goes alone. Changes memory and speed, as the prompts at once do. Empty: no limit.",
        label="Tokens at once",
        min=1,
        advanced=True,
    )
    packing: str = option(
        "auto",
        "Whether the prompts forwarded at once share one row, so that no place is padding. auto: "
        "where the attention leaves out what is masked, which is on the CPU and with FlexAttention; "
        "elsewhere a long row costs more than the padding.",
        choices=("auto", "always", "never"),
        advanced=True,
    )
    heads: int = option(
        1,
        "Scores that are learned side by side on one backbone, each on a bootstrap sample of the prompts. "
        "The score is their mean, and how far they lie apart says how sure it is. Several cost "
        "hardly more than one; 8 is a good number.",
        min=1,
        max=64,
    )
    criteria_weight: float = option(
        0.0,
        "How much the ratings of single criteria count compared with the order. Each rated criterion gets "
        "a score of its own, and a line in the report. 0: ratings are not used.",
        label="Weight of the criteria",
        min=0,
        max=100,
        advanced=True,
    )
    learning_curve: int = option(
        0,
        "How often the prompts are halved to see what more rankings would be worth: 4 also trains on "
        "a half, a quarter, an eighth and a sixteenth of them, and forecasts accuracy from that. "
        "Nearly doubles the time. 0: no learning curve; else 3 or more.",
        label="Halvings for the learning curve",
        min=0,
        max=8,
        advanced=True,
    )
    label_mistakes: int = option(
        0,
        "Parts into which the training prompts are split to look for rankings that were probably "
        "entered wrongly: each part is judged by a model trained on the others, so 5 cost four "
        "more trainings and 2 cost one. 0: held-out rankings alone are judged, at no cost.",
        label="Parts for finding label mistakes",
        min=0,
        max=20,
        advanced=True,
    )
    lora_r: int = option(
        16,
        "Rank of the LoRA matrices. 0 trains every weight and saves a whole model.",
        label="LoRA rank",
        min=0,
        max=1024,
    )
    lora_dropout: float = option(
        0.05,
        "Dropout inside the LoRA matrices. What it drops depends on how prompts are laid out; at 0 "
        "the prompts and tokens at once, packing and layout change nothing but rounding.",
        label="LoRA dropout",
        min=0,
        max=0.9,
    )
    max_tokens: int | None = option(
        None,
        "Longest prompt and response together, in tokens. Longer responses are left out, counted "
        "and reported; nothing is cut. Empty: as long as the model can read.",
        label="Longest input",
        min=8,
        advanced=True,
    )
    layout: str = option(
        "auto",
        "shared forwards the prompt once for all its responses; plain gives each response its own "
        "copy. auto uses shared where a check on the first step shows that the scores agree.",
        choices=("auto", "plain"),
        advanced=True,
    )
    quantize: str = option(
        "none",
        "How the frozen weights are held. nf4: four bits each, which fits a model four times as large "
        "on the GPU and is slower (QLoRA); needs CUDA and the package bitsandbytes.",
        choices=("none", "nf4"),
        advanced=True,
    )
    compile: bool = option(
        False,
        "Compile the model's layers with torch.compile: fewer passes over memory, after a minute or "
        "so of compiling. Pays on a GPU in runs that are longer than that.",
        advanced=True,
    )

    def conflicts(self) -> dict[str, str]:
        if conflicts := super().conflicts():
            return conflicts
        if self.learning_curve in (1, 2):
            return {"learning_curve": "A curve needs 3 halvings or more; 0 leaves it out."}
        if self.label_mistakes == 1:
            return {"label_mistakes": "One part leaves nothing to train on: 2 or more, or 0."}
        if self.quantize != "none" and not self.lora_r:
            text = "With LoRA rank 0 every weight is trained, and weights of four bits cannot be."
            return {"quantize": text}
        return {}

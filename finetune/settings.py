"""Settings of generation, DPO, merging and evaluation."""

from dataclasses import MISSING, dataclass

from recipes.preferences.pairs import PairOptions
from recipes.settings import RecipeConfig, option
from recipes.training_settings import DTYPE_HELP, DTYPES, SEED_HELP, TrainingSettings

MODEL_HELP = (
    "Hugging Face causal language model: a name on the hub, optionally with @revision, or a folder."
)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(RecipeConfig):
    """Settings for sampling text from a model."""

    samples_per_prompt: int = option(
        1, "Responses per prompt.", label="Responses per prompt", min=1, max=64
    )
    temperature: float = option(
        1.0,
        "Randomness of sampling. 1 is the model's own distribution; 0 always takes the likeliest token.",
        min=0.0,
        max=5.0,
    )
    top_p: float = option(
        0.95,
        "Sample from the smallest set of tokens with this total probability. 1 keeps all tokens.",
        min=0.01,
        max=1.0,
        label="Top-p",
    )
    max_new_tokens: int = option(
        256,
        "Longer responses are cut off and marked as truncated.",
        min=1,
        max=32768,
        label="Longest response (tokens)",
    )
    max_prompt_tokens: int | None = option(
        None,
        "Longer prompts are left out. Empty: the limit is what the model can read, with the response.",
        min=1,
        label="Longest prompt (tokens)",
    )
    seed: int = option(0, SEED_HELP, min=0, max=2**31 - 1)
    batch_size: int = option(
        64,
        "Sequences sampled at the same time. Halved automatically when memory runs out.",
        min=1,
        max=4096,
        advanced=True,
    )
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES, advanced=True)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SamplingConfig):
    """Settings for sampling responses to prompts, for people to rank."""

    model: str = option(MISSING, MODEL_HELP)
    adapter: str | None = option(
        None, "LoRA adapter on top of the model: a folder, or a name on the hub. Empty: none."
    )
    samples_per_prompt: int = option(
        4,
        "Responses to sample per prompt. One ranking of four responses gives six comparisons.",
        min=1,
        max=64,
        label="Responses per prompt",
    )


@dataclass(frozen=True, kw_only=True)
class DPOSettings(TrainingSettings):
    """Settings for fine-tuning a LoRA adapter by Direct Preference Optimization."""

    model: str = option(MISSING, MODEL_HELP + " The adapter is trained on top of it.")
    beta: float = option(
        0.1,
        "Strength of the pull towards the original model. Higher values stay closer to it.",
        min=0.001,
        max=10.0,
        label="Beta (β)",
    )
    loss_type: str = option(
        "sigmoid",
        "sigmoid: DPO as published. ipo: bounds the margin between the two responses of a pair.",
        choices=("sigmoid", "ipo"),
        label="Loss",
    )
    batch_size: int = option(
        32, "Pairs per optimizer step.", label="Pairs per step", min=1, max=4096
    )
    micro_batch_size: int = option(
        8,
        "Pairs per forward pass; must divide the pairs per step. Changes memory and speed. Halved "
        "automatically when memory runs out.",
        label="Pairs per forward pass",
        min=1,
        max=4096,
        advanced=True,
    )
    max_length: int = option(
        1024,
        "Maximum length of prompt and response together. Longer responses are left out and counted.",
        min=8,
        max=1_000_000,
        label="Longest sequence (tokens)",
    )
    max_pairs_per_prompt: int = option(
        PairOptions.max_per_prompt,
        "Maximum number of pairs from one prompt, the clearest first, so that prompts with many "
        "responses do not dominate.",
        min=1,
        max=36,
    )
    min_margin: float = option(
        PairOptions.min_margin,
        "Pairs with a smaller margin are left out. The margin is the share of wins minus the share of "
        "losses: 1 if all reviewers agree, 0 for a tie. Ties are always left out.",
        min=0.0,
        max=1.0,
    )
    weighting: str = option(
        "evidence",
        "evidence: pairs with more net evidence are shown more often. equal: each pair is shown once.",
        choices=("evidence", "equal"),
        label="Weight of a pair",
        advanced=True,
    )
    lora_targets: str = option(
        "all-linear",
        "Layers that get an adapter: all-linear, or names separated by commas (q_proj,v_proj).",
        label="LoRA layers",
        advanced=True,
    )
    evaluations: int = option(
        4,
        "Number of evaluations on held-out pairs during training. The report evaluates them in any case.",
        min=0,
        max=100,
        advanced=True,
    )

    def conflicts(self) -> dict[str, str]:
        if conflicts := super().conflicts():
            return conflicts
        if not [name for name in self.lora_targets.split(",") if name.strip()]:
            return {"lora_targets": "Name at least one layer, or enter all-linear."}
        return {}


@dataclass(frozen=True, kw_only=True)
class MergeConfig(RecipeConfig):
    """Settings for adding an adapter to the weights of its base model."""

    model: str = option(MISSING, MODEL_HELP + " The adapter was trained on it.")
    adapter: str = option(MISSING, "LoRA adapter to merge: a folder, or a name on the hub.")
    dtype: str = option(
        "float32",
        "Number format of the merged weights. bfloat16 and float16 need half the space, but round small "
        "adapters away; the merge is refused if they do.",
        choices=("float32", "bfloat16", "float16"),
        label="Number format",
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SamplingConfig):
    """Settings for the answers of a tuned model and its baseline to the same held-out prompts."""

    model: str = option(MISSING, MODEL_HELP + " Both sides build on it.")
    adapter: str = option(MISSING, "LoRA adapter to evaluate: a folder, or a name on the hub.")
    baseline_adapter: str | None = option(
        None, "Adapter to compare with. Empty: the model without an adapter."
    )
    samples_per_prompt: int = option(
        1,
        "Answers per prompt and model. More answers narrow the interval, but less than more prompts.",
        min=1,
        max=64,
        label="Answers per prompt",
    )
    reward_model: str | None = option(
        None,
        "Folder of a reward model that scores both models' answers. It was trained on the same "
        "reviewers' rankings, so compare its scores with people's verdicts. Empty: none.",
    )

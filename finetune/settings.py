"""The settings of generation, DPO and evaluation, with the defaults a specialist would start from."""

from dataclasses import MISSING, dataclass

from recipes.preferences.pairs import PairOptions
from recipes.settings import RecipeConfig, option
from recipes.training_settings import DTYPE_HELP, DTYPES, SEED_HELP, TrainingSettings

MODEL_HELP = "A Hugging Face causal language model: its name on the hub, optionally with @revision, or a folder."


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(RecipeConfig):
    """How text is sampled from a model."""

    temperature: float = option(
        1.0,
        "How freely to sample. 1 is the model's own distribution; 0 always takes the likeliest token.",
        min=0.0,
        max=5.0,
    )
    top_p: float = option(
        0.95,
        "Sample from the smallest set of tokens that holds this much probability; 1 keeps them all.",
        min=0.01,
        max=1.0,
        label="Top-p",
    )
    max_new_tokens: int = option(
        256,
        "Where a response is cut off if the model does not end it. Cut responses are marked.",
        min=1,
        max=32768,
        label="Longest response (tokens)",
    )
    max_prompt_tokens: int | None = option(
        None,
        "Leave out longer prompts. Empty: only those that, with the response, the model cannot read.",
        min=1,
        label="Longest prompt (tokens)",
    )
    seed: int = option(0, SEED_HELP, min=0, max=2**31 - 1)
    batch_size: int = option(
        64,
        "Sequences sampled at the same time. Halved by itself when memory does not suffice.",
        min=1,
        max=4096,
        advanced=True,
    )
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES, advanced=True)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SamplingConfig):
    """Sample responses to prompts, for people to rank."""

    model: str = option(MISSING, MODEL_HELP)
    adapter: str | None = option(
        None, "A LoRA adapter on top of the model: a folder, or a name on the hub. Empty: none."
    )
    samples_per_prompt: int = option(
        4,
        "Responses to sample for each prompt. Four gives six comparisons for one ranking.",
        min=1,
        max=64,
        label="Responses per prompt",
    )


@dataclass(frozen=True, kw_only=True)
class DPOSettings(TrainingSettings):
    """Fine-tune a LoRA adapter on preferences by Direct Preference Optimization."""

    model: str = option(MISSING, MODEL_HELP + " The adapter is trained on top of it.")
    beta: float = option(
        0.1,
        "How closely to stay with the original model. Higher stays closer.",
        min=0.001,
        max=10.0,
        label="Beta (β)",
    )
    loss_type: str = option(
        "sigmoid",
        "sigmoid is DPO as published. ipo does not push pairs apart without end when labels are clean.",
        choices=("sigmoid", "ipo"),
        label="Loss",
    )
    batch_size: int = option(
        32, "Pairs per optimizer step.", label="Pairs per step", min=1, max=4096
    )
    micro_batch_size: int = option(
        8,
        "Pairs per forward pass, to save memory; must divide the pairs per step. Halved "
        "automatically when memory runs out.",
        label="Pairs per forward pass",
        min=1,
        max=4096,
        advanced=True,
    )
    max_length: int = option(
        1024,
        "Longest prompt and response together. Pairs that are longer are left out, and counted.",
        min=8,
        max=1_000_000,
        label="Longest sequence (tokens)",
    )
    max_pairs_per_prompt: int = option(
        PairOptions.max_per_prompt,
        "At most this many pairs of one prompt, the clearest first, so that a prompt with nine "
        "responses does not drown the others.",
        min=1,
        max=36,
    )
    min_margin: float = option(
        PairOptions.min_margin,
        "Leave out pairs that reviewers nearly tie on. The margin is the share of wins minus the "
        "share of losses: 1 when all agree, 0 for a tie. Ties are always left out.",
        min=0.0,
        max=1.0,
    )
    weighting: str = option(
        "evidence",
        "evidence shows a pair more often the more its reviewers agree; equal shows each alike.",
        choices=("evidence", "equal"),
        label="Weight of a pair",
        advanced=True,
    )
    lora_targets: str = option(
        "all-linear",
        "Which layers get an adapter: all-linear, or names of layers with commas (q_proj,v_proj).",
        label="LoRA layers",
        advanced=True,
    )
    evaluations: int = option(
        4,
        "How often to look at the held-out pairs during training. They are always looked at at the end.",
        min=0,
        max=100,
        advanced=True,
    )

    def conflicts(self) -> dict[str, str]:
        if conflicts := super().conflicts():
            return conflicts
        if not [name for name in self.lora_targets.split(",") if name.strip()]:
            return {"lora_targets": "Name at least one layer, or write all-linear."}
        return {}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SamplingConfig):
    """Let a tuned model and its baseline answer the same held-out prompts with the same seeds."""

    model: str = option(MISSING, MODEL_HELP + " Both sides build on it.")
    adapter: str = option(MISSING, "The LoRA adapter to judge: a folder, or a name on the hub.")
    baseline_adapter: str | None = option(
        None, "Compare with this adapter. Empty: with the model itself."
    )
    samples_per_prompt: int = option(
        1,
        "Answers per prompt and side. More narrow the interval, though less than more prompts do.",
        min=1,
        max=64,
        label="Answers per prompt",
    )
    reward_model: str | None = option(
        None,
        "A reward model that scores both sides: a folder. It saw these reviewers' rankings, so read "
        "its opinion beside people's. Empty: none.",
    )

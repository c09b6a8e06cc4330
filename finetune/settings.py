"""Settings of generation, fine-tuning, merging and evaluation."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, replace
from typing import Any

from recipes.settings import RecipeConfig, option
from recipes.training_settings import (
    DTYPE_HELP,
    DTYPES,
    SEED_HELP,
    ChatSettings,
    TrainingSettings,
)

MODEL_HELP = "A Hugging Face causal language model: a name on the hub, optionally with @revision, or a folder."


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(ChatSettings):
    """Settings for sampling text from a model."""

    samples_per_prompt: int = option(
        1,
        "The number of responses sampled for each prompt.",
        label="Responses per prompt",
        min=1,
        max=64,
    )
    sampling: str = option(
        "settings",
        "Where temperature and top-p come from. settings uses the values below. published uses "
        "the values that the model recommends in its generation_config.json.",
        choices=("settings", "published"),
        advanced=True,
    )
    temperature: float = option(
        1.0,
        "The randomness of sampling. 1 samples from the model's own distribution. 0 always "
        "takes the likeliest token.",
        min=0.0,
        max=5.0,
    )
    top_p: float = option(
        0.95,
        "Tokens are sampled from the smallest set of tokens whose probabilities add up to this "
        "value. 1 keeps all tokens.",
        min=0.01,
        max=1.0,
        label="Top-p",
    )
    max_new_tokens: int = option(
        256,
        "The maximum number of tokens in a response. Longer responses are cut off and marked as "
        "truncated.",
        min=1,
        max=32768,
        label="Longest response (tokens)",
    )
    max_prompt_tokens: int | None = option(
        None,
        "The maximum number of tokens in a prompt. Longer prompts are left out. If empty, the "
        "limit is the number of tokens that the model can read, minus the longest response.",
        min=1,
        label="Longest prompt (tokens)",
    )
    seed: int = option(0, SEED_HELP, min=0, max=2**31 - 1)
    batch_size: int = option(
        64,
        "The number of responses sampled at the same time. It is halved automatically if memory "
        "runs out.",
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
        None,
        "The LoRA adapter on top of the model: a folder, or a name on the hub. If empty, the "
        "model has no adapter.",
    )
    samples_per_prompt: int = option(
        4,
        "The number of responses sampled for each prompt. One ranking of four responses gives "
        "six comparisons.",
        min=1,
        max=64,
        label="Responses per prompt",
    )


RETIRED = frozenset({"loss_type", "max_pairs_per_prompt", "min_margin", "weighting"})
"""Settings of earlier DPO runs, which trained on pairs. Queued runs may still have them."""


def without_retired(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the config of a run without settings of earlier versions, and their names."""
    values = {name: value for name, value in config.items() if name not in RETIRED}
    if isinstance(values.get("gradient_checkpointing"), bool):
        values["gradient_checkpointing"] = "on" if values["gradient_checkpointing"] else "off"
    return values, sorted(RETIRED & config.keys())


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """Settings shared by all fine-tuning methods. A method adds its own in finetune/methods/."""

    model: str = option(MISSING, MODEL_HELP + " The adapter is trained on top of it.")
    adapter: str | None = option(
        None,
        "The LoRA adapter whose training is continued: a folder, or a name on the hub. Its rank "
        "and layers are kept. If empty, training begins with a new adapter.",
    )
    learning_rate: float = option(
        1e-5,
        "The peak learning rate. For models with a billion weights or more, 5e-6 to 5e-5 is "
        "usual. Smaller models need a higher rate.",
        min=1e-8,
        max=1.0,
    )
    tokens_at_once: int | None = option(
        None,
        "The maximum number of tokens in a forward pass, in addition to the limit on prompts. "
        "The prompts of a step are sorted by length and divided into passes that fit. A longer "
        "prompt gets a pass of its own. The setting changes memory and speed only. If empty, "
        "the limit is 512 on a CPU, where longer passes are not faster, and 8192 on a GPU.",
        label="Tokens per forward pass",
        min=1,
        advanced=True,
    )
    max_length: int = option(
        1024,
        "The maximum number of tokens in a prompt and a response together. Longer responses are "
        "left out and counted.",
        min=8,
        max=1_000_000,
        label="Longest sequence (tokens)",
    )
    lora_targets: str = option(
        "all-linear",
        "The layers that get an adapter: all-linear, or the names of layers separated by commas "
        "(q_proj,v_proj).",
        label="LoRA layers",
        advanced=True,
    )
    gradient_checkpointing: str = option(
        "auto",
        "Recompute activations in the backward pass. This takes less memory, but about a third "
        "more time. auto does so for models with a billion weights or more.",
        choices=("auto", "on", "off"),
        advanced=True,
    )
    evaluations: int = option(
        4,
        "How many times the model is evaluated on held-out prompts during training. The report "
        "always includes an evaluation at the end.",
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
class ReferenceSettings(FinetuneSettings):
    """Settings of methods that compare the model with its reference."""

    beta: float = option(
        0.1,
        "How strongly the model is pulled towards the original model. With a higher value, it "
        "stays closer.",
        min=0.001,
        max=10.0,
        label="Beta (β)",
    )


@dataclass(frozen=True, kw_only=True)
class SampledSettings(FinetuneSettings):
    """Settings of methods that learn from the model's own samples, scored by a reward model."""

    reward_model: str = option(MISSING, "The folder of the reward model that scores the samples.")
    samples_per_prompt: int = option(
        4,
        "The number of responses that the model samples for each prompt, in every round or step.",
        label="Responses per prompt",
        min=2,
        max=64,
    )
    temperature: float = option(
        1.0,
        "The randomness of sampling. With 1, samples come from the model's own distribution, "
        "and the KL estimate is unbiased.",
        min=0.01,
        max=5.0,
    )
    max_new_tokens: int = option(
        256,
        "The maximum number of tokens in a sample. Longer samples are cut off, and the model "
        "does not learn to stop at the cut.",
        min=1,
        max=32768,
        label="Longest response (tokens)",
    )
    sampling_batch_size: int = option(
        64,
        "The number of responses sampled at the same time. It is halved automatically if memory "
        "runs out.",
        label="Sequences sampled at the same time",
        min=1,
        max=4096,
        advanced=True,
    )

    def conflicts(self) -> dict[str, str]:
        if conflicts := super().conflicts():
            return conflicts
        if self.max_new_tokens >= self.max_length:
            return {
                "max_new_tokens": f"Must be below the longest sequence, {self.max_length}, which includes "
                "the prompt."
            }
        return {}

    def sampling_of_round(self, number: int) -> SamplingConfig:
        """Return the settings of the samples of a round, each round with its own seed."""
        return SamplingConfig(
            samples_per_prompt=self.samples_per_prompt,
            temperature=self.temperature,
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            max_prompt_tokens=self.max_length - self.max_new_tokens,
            seed=(self.seed + number - 1) % 2**31,
            batch_size=self.sampling_batch_size,
            dtype=self.dtype,
        )


@dataclass(frozen=True, kw_only=True)
class RankedSamplesSettings(SampledSettings):
    """Settings of methods that are trained on rankings of the model's own samples, in rounds."""

    prompts_per_round: int | None = option(
        None,
        "The number of training prompts in a round. Each round uses different prompts until all "
        "have been used. If empty, every round uses all prompts.",
        min=1,
    )
    tie_margin: float = option(
        0.0,
        "A response is tied with the best one of its tier if its score is lower by at most this "
        "much. With 0, only equal scores are ties.",
        label="Margin of ties",
        min=0,
        max=1000,
    )
    top_p: float = option(
        1.0,
        "Tokens are sampled from the smallest set of tokens whose probabilities add up to this "
        "value. 1 keeps all tokens.",
        min=0.01,
        max=1.0,
        label="Top-p",
        advanced=True,
    )

    @property
    def number_of_rounds(self) -> int:
        return 1

    def sampling_of_round(self, number: int) -> SamplingConfig:
        return replace(super().sampling_of_round(number), top_p=self.top_p)


@dataclass(frozen=True, kw_only=True)
class PolicyGradientSettings(SampledSettings):
    """Settings of methods that train by the gradient of the expected reward, step by step."""

    without = frozenset({"tokens_at_once", "layout", "packing", "compile"})

    learning_rate: float = option(
        1e-5,
        "The peak learning rate. For models with a billion weights or more, 1e-6 to 2e-5 is "
        "usual. Smaller models need a higher rate.",
        min=1e-8,
        max=1.0,
    )
    batch_size: int = option(
        16,
        "The number of prompts per optimizer step. Each step uses all sampled responses to "
        "these prompts.",
        label="Prompts per step",
        min=1,
        max=4096,
    )
    micro_batch_size: int = option(
        4,
        "The number of prompts in a forward pass, with all their responses. It must divide the "
        "number of prompts per step. It changes memory and speed, but not the result. It is "
        "halved automatically if memory runs out, down to a single response.",
        label="Prompts per forward pass",
        min=1,
        max=4096,
    )
    steps: int | None = option(
        None,
        "The number of optimizer steps, instead of the epochs. If empty, the steps are as many "
        "as the epochs need, each with new prompts.",
        label="Optimizer steps",
        min=1,
        max=1_000_000,
    )
    samples_per_prompt: int = option(
        8,
        "The number of responses that the model samples for each prompt in a step (the group "
        "size). A reward is compared with the others of its group. With more responses, this "
        "comparison is more certain, but each step is slower.",
        label="Responses per prompt",
        min=2,
        max=64,
    )
    beta: float = option(
        0.05,
        "How strongly the model is pulled towards the original model, by the KL divergence. 0 "
        "turns this off and saves the pass for the reference, but then nothing stops the model "
        "from exploiting errors of the reward model.",
        min=0,
        max=10.0,
        label="Beta (β)",
    )
    updates_per_sample: int = option(
        1,
        "The number of optimizer steps on the same samples, before the model samples again. "
        "More steps save sampling time, but the samples are then from an older model.",
        label="Updates per sample",
        min=1,
        max=16,
        advanced=True,
    )
    epsilon: float = option(
        0.2,
        "The clip range. If the probability of a sample has changed by more than this share "
        "since it was drawn, the sample does not change it further. This has an effect only "
        "with two or more updates per sample.",
        label="Clip range (ε)",
        min=0.001,
        max=10.0,
        advanced=True,
    )
    skip_truncated: bool = option(
        False,
        "Leave responses that were cut off at the longest response out of the loss. Their "
        "rewards still count in the comparison with their group.",
        label="Skip truncated responses",
        advanced=True,
    )


@dataclass(frozen=True, kw_only=True)
class MergeConfig(RecipeConfig):
    """Settings for adding an adapter to the weights of its base model."""

    model: str = option(MISSING, MODEL_HELP + " The adapter was trained on it.")
    adapter: str = option(MISSING, "The LoRA adapter to merge: a folder, or a name on the hub.")
    output_dtype: str = option(
        "float32",
        "The number format of the merged weights. bfloat16 and float16 need half the space, but "
        "can round a small adapter away. The merge is refused if they do.",
        choices=("float32", "bfloat16", "float16"),
        label="Number format",
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SamplingConfig):
    """Settings for comparing the answers of a tuned model and its baseline."""

    model: str = option(MISSING, MODEL_HELP + " It is the base model of the candidate.")
    adapter: str | None = option(
        None,
        "The LoRA adapter to evaluate: a folder, or a name on the hub. If empty, the model "
        "itself is evaluated.",
    )
    baseline_model: str | None = option(
        None, "The base model of the baseline. If empty, it is the base model of the candidate."
    )
    baseline_adapter: str | None = option(
        None,
        "The adapter of the baseline. If empty, the baseline is its base model without an adapter.",
    )
    samples_per_prompt: int = option(
        1,
        "The number of answers that each model gives to a prompt. More answers narrow the "
        "interval, but less than more prompts do.",
        min=1,
        max=64,
        label="Answers per prompt",
    )
    reward_model: str | None = option(
        None,
        "The folder of a reward model that scores the answers of both models. If it was trained "
        "on the same reviewers' rankings, compare its scores with people's verdicts. If empty, "
        "no reward model is used.",
    )

"""Settings of generation, fine-tuning, merging, release and evaluation."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, replace
from typing import Any

from recipes.hub_names import COMMIT, MAIN, hub_name
from recipes.presets import BEST_QUALITY, QUICK_LOOK, SMALL_GPU
from recipes.settings import RecipeConfig, option
from recipes.training_settings import (
    DTYPE_HELP,
    DTYPES,
    SEED_HELP,
    ChatSettings,
    TrainingSettings,
)

MODEL_HELP = "A Hugging Face causal language model: a name on the hub, optionally with @revision, or a folder."

TEMPERATURE_HELP = (
    "The randomness of sampling. 1 samples from the model's own distribution. 0 always takes the "
    "likeliest token."
)
TOP_P_HELP = (
    "Tokens are sampled from the smallest set of tokens whose probabilities add up to this value. 1 keeps "
    "all tokens."
)
SEEDED, BATCHED = "seeded", "batched"
ENGINE_HELP = (
    "How responses are sampled. seeded samples them in batches and gives the same text for the same seed. "
    "batched replaces each finished response immediately (continuous batching). It is meant for GPUs, and "
    "rounding may change some texts when a run is repeated."
)
GREEDY = "It has no effect with temperature 0, which always takes the likeliest token."
MAX_NEW_TOKENS_HELP = "The maximum number of tokens in a response. Longer responses are cut off and marked as truncated."


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(ChatSettings):
    """Settings for sampling text from a model."""

    samples_per_prompt: int = option(
        1,
        "The number of responses sampled for each prompt.",
        label="Responses per prompt",
        min=1,
        max=64,
        unit="responses",
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
        TEMPERATURE_HELP,
        min=0.0,
        max=5.0,
    )
    top_p: float = option(
        0.95,
        TOP_P_HELP,
        min=0.01,
        max=1.0,
        label="Top-p",
        unit="probability",
    )
    max_new_tokens: int = option(
        256,
        MAX_NEW_TOKENS_HELP,
        min=1,
        max=32768,
        label="Longest response",
        unit="tokens",
    )
    max_prompt_tokens: int | None = option(
        None,
        "The maximum number of tokens in a prompt. Longer prompts are left out. If empty, the "
        "limit is the number of tokens that the model can read, minus the longest response.",
        min=1,
        label="Longest prompt",
        unit="tokens",
    )
    seed: int = option(0, SEED_HELP, min=0, max=2**31 - 1)
    batch_size: int = option(
        64,
        "The number of responses sampled at the same time. It is halved automatically if memory "
        "runs out.",
        min=1,
        max=4096,
        advanced=True,
        unit="responses",
    )
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES, advanced=True)

    def unused(self) -> dict[str, str]:
        reasons = super().unused()
        if self.sampling == "published":
            text = "It has no effect with the published sampling parameters of the model."
            reasons |= dict.fromkeys(("temperature", "top_p"), text)
        elif not self.temperature:
            reasons["top_p"] = GREEDY
        return reasons


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
        unit="responses",
    )
    engine: str = option(SEEDED, ENGINE_HELP, choices=(SEEDED, BATCHED), advanced=True)


@dataclass(frozen=True, kw_only=True)
class EndpointConfig(RecipeConfig):
    """Settings for questions to a model on an OpenAI-compatible server."""

    endpoint: str = option(MISSING, "The name of the endpoint, as the operator declared it.")
    model: str = option(MISSING, "The name of the model on the server.")


@dataclass(frozen=True, kw_only=True)
class AskConfig(EndpointConfig):
    """Settings for responses of a model on an OpenAI-compatible server, for people to rank."""

    samples_per_prompt: int = option(
        4,
        "The number of responses to each prompt. Each of them is a request. One ranking of four "
        "responses gives six comparisons.",
        min=1,
        max=64,
        label="Responses per prompt",
        unit="responses",
    )
    temperature: float = option(
        1.0,
        TEMPERATURE_HELP,
        min=0.0,
        max=2.0,
    )
    top_p: float = option(
        1.0,
        TOP_P_HELP,
        min=0.01,
        max=1.0,
        label="Top-p",
        unit="probability",
    )
    max_new_tokens: int = option(
        1024,
        MAX_NEW_TOKENS_HELP,
        min=1,
        max=131_072,
        label="Longest response",
        unit="tokens",
    )
    seed: int = option(
        0,
        "The seed of the run. Each request has a seed of its own, which is made from this one, if "
        "the endpoint accepts seeds.",
        min=0,
        max=2**31 - 1,
    )

    def unused(self) -> dict[str, str]:
        return super().unused() | ({} if self.temperature else {"top_p": GREEDY})


JUDGE_TOKENS_HELP = (
    "The maximum number of tokens in a reply of an LLM judge. A reply that is cut off has no verdict. "
    "Models that reason before they answer need more tokens."
)


@dataclass(frozen=True, kw_only=True)
class MeasureJudgeConfig(EndpointConfig):
    """Settings for measuring the agreement of an LLM judge with the reviewers."""

    max_new_tokens: int = option(
        1024,
        JUDGE_TOKENS_HELP,
        min=16,
        max=131_072,
        label="Longest reply",
        unit="tokens",
    )
    seed: int = option(0, "The seed of the intervals.", min=0, max=2**31 - 1, advanced=True)


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

    preset_values = {
        QUICK_LOOK: {"evaluations": 1},
        BEST_QUALITY: {"evaluations": 10},
        SMALL_GPU: {"gradient_checkpointing": "on"},
    }

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
        unit="tokens",
    )
    max_length: int = option(
        1024,
        "The maximum number of tokens in a prompt and a response together. Longer responses are "
        "left out and counted.",
        min=8,
        max=1_000_000,
        label="Longest sequence",
        unit="tokens",
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
        unit="times",
    )
    sample_prompts: int = option(
        3,
        "The number of held-out prompts that the model answers before, during and after training. "
        "The page of the run shows the answers. With 0, there are none.",
        label="Sample prompts",
        min=0,
        max=8,
        advanced=True,
    )
    sample_tokens: int = option(
        96,
        "The maximum number of tokens in an answer to a sample prompt.",
        label="Longest sample answer (tokens)",
        min=1,
        max=1024,
        advanced=True,
    )

    def conflicts(self) -> dict[str, str]:
        if conflicts := super().conflicts():
            return conflicts
        if not [name for name in self.lora_targets.split(",") if name.strip()]:
            return {"lora_targets": "Name at least one layer, or enter all-linear."}
        return {}

    def unused(self) -> dict[str, str]:
        reasons = super().unused()
        if self.adapter:
            text = (
                "It has no effect if an adapter is continued, because the adapter keeps its form."
            )
            names = ("lora_r", "lora_alpha", "lora_variant", "lora_targets")
            reasons |= dict.fromkeys(names, text)
        return reasons


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

    preset_values = {
        BEST_QUALITY: {"samples_per_prompt": 8},
        SMALL_GPU: {"sampling_batch_size": 8},
    }

    reward_model: str = option(MISSING, "The folder of the reward model that scores the samples.")
    samples_per_prompt: int = option(
        4,
        "The number of responses that the model samples for each prompt, in every round or step.",
        label="Responses per prompt",
        min=2,
        max=64,
        unit="responses",
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
        label="Longest response",
        unit="tokens",
    )
    sampling_batch_size: int = option(
        64,
        "The number of responses sampled at the same time. It is halved automatically if memory "
        "runs out.",
        label="Sequences sampled at the same time",
        min=1,
        max=4096,
        advanced=True,
        unit="responses",
    )
    engine: str = option(SEEDED, ENGINE_HELP, choices=(SEEDED, BATCHED), advanced=True)

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

    preset_values = {QUICK_LOOK: {"epochs": 1.0, "prompts_per_round": 32}}

    prompts_per_round: int | None = option(
        None,
        "The number of training prompts in a round. Each round uses different prompts until all "
        "have been used. If empty, every round uses all prompts.",
        min=1,
        unit="prompts",
    )
    tie_margin: float = option(
        0.0,
        "A response is tied with the best one of its tier if its score is lower by at most this "
        "much. With 0, only equal scores are ties.",
        label="Margin of ties",
        min=0,
        max=1000,
        unit="points of score",
    )
    top_p: float = option(
        1.0,
        TOP_P_HELP,
        min=0.01,
        max=1.0,
        label="Top-p",
        advanced=True,
        unit="probability",
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
    preset_values = {
        QUICK_LOOK: {"epochs": 1.0, "steps": 5},
        BEST_QUALITY: {"samples_per_prompt": 16},
    }

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
        unit="prompts",
    )
    micro_batch_size: int = option(
        4,
        "The number of prompts in a forward pass, with all their responses. It must divide the "
        "number of prompts per step. It changes memory and speed, but not the result. It is "
        "halved automatically if memory runs out, down to a single response.",
        label="Prompts per forward pass",
        min=1,
        max=4096,
        unit="prompts",
    )
    steps: int | None = option(
        None,
        "The number of optimizer steps, instead of the epochs. If empty, the steps are as many "
        "as the epochs need, each with new prompts.",
        label="Optimizer steps",
        min=1,
        max=1_000_000,
        unit="steps",
    )
    samples_per_prompt: int = option(
        8,
        "The number of responses that the model samples for each prompt in a step (the group "
        "size). A reward is compared with the others of its group. With more responses, this "
        "comparison is more certain, but each step is slower.",
        label="Responses per prompt",
        min=2,
        max=64,
        unit="responses",
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
        unit="steps",
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

    def unused(self) -> dict[str, str]:
        reasons = super().unused()
        if self.steps:
            reasons["epochs"] = "It has no effect if the number of optimizer steps is given."
        if self.updates_per_sample == 1:
            reasons["epsilon"] = "It has no effect with one update per sample."
        return reasons


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


LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class PushConfig(RecipeConfig):
    """Settings for pushing a model to a hub."""

    folder: str = option(MISSING, "The folder of the adapter or of the merged model.")
    repo: str = option(
        MISSING,
        "The repository, as OWNER/NAME or OWNER/NAME@BRANCH. It is created if it does not exist.",
        label="Repository",
    )
    private: bool = option(
        True,
        "Only people with access to the repository can see the model. If the repository exists and "
        "is public, the push is refused.",
    )
    replace: bool = option(
        False,
        "Replace the files of a branch that is not empty. The earlier commits stay in its history.",
        label="Replace existing files",
    )
    license: str = option(
        "unknown",
        "The identifier of the model's licence on the hub, such as apache-2.0. The licence of the "
        "base model usually limits the choice.",
        label="Licence",
    )
    dataset: str = option(
        "",
        "The hub name of the data set with the rankings, if you have published it. If empty, the "
        "model card names the snapshot instead.",
        label="Data set",
    )

    def conflicts(self) -> dict[str, str]:
        errors = {}
        for name in ("repo", "dataset"):
            value = getattr(self, name)
            try:
                branch = hub_name(value).revision if value or name == "repo" else MAIN
            except ValueError as error:
                errors[name] = str(error)
                continue
            if name == "repo" and COMMIT.fullmatch(branch):
                errors[name] = "A commit cannot be changed. Write the name of a branch."
            if name == "dataset" and "@" in value:
                errors[name] = "Leave out the revision of the data set."
        if not LICENSE_ID.fullmatch(self.license):
            errors["license"] = (
                f"{self.license!r} is not the identifier of a licence. Examples: apache-2.0, mit, "
                "cc-by-4.0, other, unknown."
            )
        return errors


@dataclass(frozen=True, kw_only=True)
class PullConfig(RecipeConfig):
    """Settings for pulling a model from a hub."""

    repo: str = option(
        MISSING,
        "The repository, as OWNER/NAME or OWNER/NAME@REVISION. The revision is a branch, a tag or a "
        "commit.",
        label="Repository",
    )

    def conflicts(self) -> dict[str, str]:
        try:
            hub_name(self.repo)
        except ValueError as error:
            return {"repo": str(error)}
        return {}


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
    reference_model: str | None = option(
        None,
        "The model from which the divergence of the candidate is measured. If empty, it is the base "
        "model of the candidate.",
    )
    samples_per_prompt: int = option(
        1,
        "The number of answers that each model gives to a prompt. More answers narrow the "
        "interval, but less than more prompts do.",
        min=1,
        max=64,
        label="Answers per prompt",
        unit="responses",
    )
    reward_model: str | None = option(
        None,
        "The folder of a reward model that scores the answers of both models. If it was trained "
        "on the same reviewers' rankings, compare its scores with people's verdicts. If empty, "
        "no reward model is used.",
    )
    baseline_endpoint: str | None = option(
        None, "The endpoint of the baseline, if it is a model on one."
    )
    baseline_name: str | None = option(None, "The name of the baseline on its endpoint.")
    judge_endpoint: str | None = option(None, "The endpoint of an LLM judge, if there is one.")
    judge_model: str | None = option(None, "The name of the LLM judge on its endpoint.")
    judge_max_tokens: int = option(
        1024,
        JUDGE_TOKENS_HELP,
        min=16,
        max=131_072,
        label="Longest reply of an LLM judge",
        advanced=True,
        unit="tokens",
    )

    def unused(self) -> dict[str, str]:
        reasons = super().unused()
        if not self.judge_model:
            reasons["judge_max_tokens"] = "It has no effect without an LLM judge."
        return reasons

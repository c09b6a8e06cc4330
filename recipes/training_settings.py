"""Settings shared by all training recipes: optimizer, LoRA, number format, checkpoints and chats."""

from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from recipes.presets import BEST_QUALITY, QUICK_LOOK, SMALL_GPU
from recipes.settings import RecipeConfig, option

DTYPES = ("auto", "float32", "bfloat16", "float16")
DTYPE_HELP = (
    "The number format of the computation. auto uses bfloat16 on GPUs that support it in hardware "
    "(compute capability 8.0 or higher), float16 on other GPUs, and float32 on the CPU. Training in "
    "float16 scales the loss so that small gradients do not become zero."
)
SEED_HELP = (
    "The seed of all random numbers. A run with the same seed, settings and data gives the same "
    "result on the same machine."
)


CHAT_KWARGS, CHAT_DATE = "chat_template_kwargs", "chat_date"
RESERVED = frozenset(
    {
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation",
        "max_length", "messages", "padding", "return_assistant_tokens_mask", "return_dict",
        "return_tensors", "sanitize_control_tokens", "strftime_now", "tokenize",
        "tokenizer_kwargs", "truncation",
    }
)  # fmt: skip


def is_reserved(name: str) -> bool:
    """Return whether an option of a chat template cannot be set in the settings.

    This applies to arguments of transformers and to texts of special tokens, such as `eos_token`.
    """
    return name in RESERVED or name.endswith("_token")


@dataclass(frozen=True, kw_only=True)
class ChatSettings(RecipeConfig):
    """Settings for converting chats to text, shared by training, generation and evaluation."""

    chat_template_kwargs: dict[str, Any] | None = option(  # noqa: RUF009 - a field
        None,
        "The options that are passed to the model's chat template, as a JSON object such as "
        '{"enable_thinking": false}. If empty, the options that the model or adapter was '
        "trained with are used, or none.",
        label="Chat template options",
        advanced=True,
    )
    chat_date: str = option(
        "",
        "The date that the chat template prints, as YYYY-MM-DD, if it prints one. If empty, it "
        "is the date that the model or adapter was trained with, or the day on which the run "
        "begins.",
        label="Date in chats",
        advanced=True,
        unit="YYYY-MM-DD",
    )

    def conflicts(self) -> dict[str, str]:
        for name in self.chat_template_kwargs or {}:
            if is_reserved(name) or not name.isidentifier():
                return {CHAT_KWARGS: f"{name} is not an option of a chat template."}
        if self.chat_date and not _is_date(self.chat_date):
            return {CHAT_DATE: f"{self.chat_date} is not a date; use YYYY-MM-DD."}
        return {}


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ChatSettings):
    """Base class of training settings.

    A recipe adds further settings. It may declare one again to change its default.
    """

    preset_values = {
        QUICK_LOOK: {"epochs": 0.25},
        BEST_QUALITY: {"epochs": 2.0, "lora_r": 32, "lora_alpha": 64},
        SMALL_GPU: {"micro_batch_size": 1, "tokens_at_once": 1024},
    }
    importance = (
        "learning_rate", "epochs", "steps", "rounds", "prompts_per_round", "samples_per_prompt",
        "beta", "scale_rewards", "desirable_weight", "undesirable_weight", "min_margin",
        "batch_size", "max_length", "max_new_tokens", "temperature", "tie_margin", "heads",
        "lora_r", "lora_alpha", "lora_dropout", "micro_batch_size",
    )  # fmt: skip
    sections = {
        "Rankings": (
            "ties", "strength", "strength_scale", "reviewer_weights", "label_smoothing",
            "smoothing", "cut_weight", "criteria_weight",
        ),
        "Optimizer": ("warmup", "schedule", "weight_decay", "max_grad_norm", "seed"),
        "Adapter": ("lora_variant", "lora_targets"),
        "Memory and speed": (
            "tokens_at_once", "gradient_checkpointing", "sampling_batch_size", "engine", "quantize", "dtype",
            "packing", "layout", "compile", "max_tokens",
        ),
        "Evaluation and checkpoints": (
            "evaluations", "learning_curve", "label_mistakes", "checkpoint_steps",
        ),
        "Chats": ("chat_template_kwargs", "chat_date"),
    }  # fmt: skip

    epochs: float = option(
        1.0,
        "How many times training passes over the data. Models overfit preferences quickly; one "
        "to three passes are usual.",
        min=0.01,
        max=50,
        unit="passes",
    )
    learning_rate: float = option(
        1e-4,
        "The peak learning rate. LoRA needs a rate about ten times higher than full "
        "fine-tuning, and small models need a higher one than large models.",
        min=1e-8,
        max=1.0,
    )
    batch_size: int = option(
        16,
        "The number of prompts per optimizer step. All responses to a prompt are in the same step.",
        label="Prompts per step",
        min=1,
        max=4096,
        unit="prompts",
    )
    micro_batch_size: int = option(
        4,
        "The number of prompts in a forward pass. It must divide the number of prompts per "
        "step. It changes memory and speed. It changes the result only if LoRA uses dropout, "
        "which then draws other random numbers. It is halved automatically if memory runs out.",
        label="Prompts per forward pass",
        min=1,
        max=4096,
        unit="prompts",
    )
    lora_r: int = option(
        16,
        "The rank of the LoRA matrices. With a higher rank, the adapter can learn more, but "
        "also overfits more.",
        label="LoRA rank",
        min=1,
        max=1024,
    )
    lora_alpha: int = option(
        32,
        "The scale of the LoRA update. Twice the rank is usual.",
        label="LoRA alpha",
        min=1,
        max=4096,
    )
    lora_variant: str = option(
        "lora",
        "The form of the LoRA update. lora is the published form. rslora scales the update by "
        "α/√r instead of α/r, which suits ranks above 64. dora also trains the length of each "
        "row of the weights; it is slower, and sometimes better at low ranks.",
        choices=("lora", "rslora", "dora"),
        label="Kind of LoRA",
        advanced=True,
    )
    warmup: float = option(
        0.1,
        "The share of the steps, from 0 to 1, over which the learning rate rises from 0 to its "
        "peak.",
        label="Warm-up",
        min=0,
        max=1,
        advanced=True,
        unit="share of steps",
    )
    schedule: str = option(
        "cosine",
        "How the learning rate falls after the warm-up: along a cosine, in a line, or not at all.",
        choices=("cosine", "linear", "constant_with_warmup"),
        advanced=True,
    )
    weight_decay: float = option(
        0.0,
        "The weight decay of the optimizer, AdamW. 0 turns it off.",
        min=0,
        max=1,
        advanced=True,
    )
    max_grad_norm: float = option(
        1.0,
        "The maximum norm of the gradient. A longer gradient is scaled down to it.",
        min=1e-6,
        max=1e6,
        advanced=True,
    )
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES, advanced=True)
    seed: int = option(0, SEED_HELP, min=0, max=2**31 - 1, advanced=True)
    checkpoint_steps: int = option(
        0,
        "The number of optimizer steps between two checkpoints. With 0, a run writes ten to "
        "twenty checkpoints.",
        label="Checkpoint every",
        min=0,
        max=1_000_000,
        advanced=True,
        unit="steps",
    )
    tokens_at_once: int | None = option(
        None,
        "The maximum number of tokens in a forward pass, in addition to the limit on prompts. "
        "The prompts of a step are sorted by length and divided into passes that fit. A longer "
        "prompt gets a pass of its own. The setting changes memory and speed only. If empty, "
        "there is no limit.",
        label="Tokens per forward pass",
        min=1,
        advanced=True,
        unit="tokens",
    )
    layout: str = option(
        "auto",
        "How prompts and responses are arranged. auto forwards a prompt once for all its "
        "responses if the scores are the same on the first step. plain gives each response its "
        "own copy of the prompt.",
        choices=("auto", "plain"),
        advanced=True,
    )
    packing: str = option(
        "auto",
        "Whether the prompts of a forward pass share one row without padding. auto packs them "
        "on the CPU and with FlexAttention, which skip masked positions. With other attentions, "
        "a long row costs more than the padding.",
        choices=("auto", "always", "never"),
        advanced=True,
    )
    quantize: str = option(
        "none",
        "The precision of the frozen weights. nf4 stores them in four bits (QLoRA), so that a "
        "model four times as large fits on the GPU, but training is slower. It needs CUDA and "
        "the package bitsandbytes.",
        choices=("none", "nf4"),
        advanced=True,
    )
    compile: bool = option(
        False,
        "Compile the model's layers with torch.compile. The compilation takes about a minute, "
        "and makes longer runs on a GPU faster.",
        advanced=True,
    )

    def conflicts(self) -> dict[str, str]:
        if conflicts := super().conflicts():
            return conflicts
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            name = self.label_of("batch_size").lower()
            text = f"{self.micro_batch_size} does not divide the {self.batch_size} {name}."
            return {"micro_batch_size": text}
        return {}

    def unused(self) -> dict[str, str]:
        reasons = super().unused()
        if self.layout == "plain" and "packing" not in self.without:
            reasons["packing"] = "It has no effect with the layout plain, which packs nothing."
        return reasons


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(RecipeConfig):
    """Settings for how the loss uses ties, strengths, weights and the unacceptable line."""

    strength: str = option(
        "ignore",
        "How graded judgments (slightly, clearly, much better) are used. ignore treats them "
        "like any other win. With margin, a higher strength requires a larger gap in score. "
        "With soft, the strength is the certainty of the judgment.",
        choices=("ignore", "margin", "soft"),
        label="Graded strength",
        advanced=True,
    )
    strength_scale: float = option(
        1.0,
        "The gap in score for each step of strength.",
        min=0,
        max=10,
        advanced=True,
        unit="points of score",
    )
    label_smoothing: float = option(
        0.0,
        "The assumed share of wrong judgments, from 0 to 0.49. The next setting says how it is "
        "used.",
        min=0,
        max=0.49,
        advanced=True,
        unit="share of judgments",
    )
    smoothing: str = option(
        "conservative",
        "How the assumed share of wrong judgments is used. conservative trains the model to be "
        "as uncertain as the judgments. robust corrects the loss, so that its expectation is "
        "the loss of correct judgments; it becomes unstable if the share is close to one half.",
        choices=("conservative", "robust"),
        label="Kind of label smoothing",
        advanced=True,
    )
    reviewer_weights: str = option(
        "full",
        "How the weights of rankings are used. full also applies them between prompts, so that "
        "a prompt ranked only by unreliable reviewers counts less. within applies them only "
        "between rankings of the same prompt. With ignore, all rankings count the same.",
        choices=("full", "within", "ignore"),
        advanced=True,
    )
    ties: str = option(
        "half",
        "How ties are used. half counts a tie as half a win for each response. davidson and "
        "rao_kupper model a tie as an outcome of its own, which is more likely if the scores "
        "are close. The share of ties in the data determines how close.",
        choices=("half", "davidson", "rao_kupper"),
        advanced=True,
    )
    cut_weight: float = option(
        0.0,
        "The weight of the unacceptable line relative to the order of the responses. The line "
        "pulls the scores of acceptable responses above 0 and those of the others below, so "
        "that scores of different prompts can be compared. With 0, only the order is used.",
        label="Weight of the line",
        min=0,
        max=100,
        advanced=True,
    )

    def unused(self) -> dict[str, str]:
        reasons = super().unused()
        if self.strength == "ignore":
            reasons["strength_scale"] = "It has no effect while graded strength is ignored."
        if not self.label_smoothing:
            reasons["smoothing"] = "It has no effect without label smoothing."
        return reasons


class ObjectiveSettings(Protocol):
    """The settings that the objective reads: PreferenceSettings and settings for several outputs."""

    @property
    def strength(self) -> str: ...
    @property
    def strength_scale(self) -> float: ...
    @property
    def label_smoothing(self) -> float: ...
    @property
    def smoothing(self) -> str: ...
    @property
    def reviewer_weights(self) -> str: ...
    @property
    def ties(self) -> str: ...
    @property
    def cut_weight(self) -> float: ...
    @property
    def criteria_weight(self) -> float: ...
    @property
    def heads(self) -> int: ...
    @property
    def seed(self) -> int: ...


class QuantizationSettings(Protocol):
    """The setting for the precision of the frozen weights."""

    @property
    def quantize(self) -> str: ...

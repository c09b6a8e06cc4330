"""Settings shared by all training recipes: optimizer, LoRA, number format, checkpoints and chats."""

from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from recipes.settings import RecipeConfig, option

DTYPES = ("auto", "float32", "bfloat16", "float16")
DTYPE_HELP = (
    "Number format. auto: bfloat16 on GPUs that compute it in hardware (compute capability 8.0 or "
    "higher), float16 on other GPUs, float32 on the CPU. Training in float16 scales the loss so that "
    "small gradients do not become zero."
)
SEED_HELP = "The same seed with the same settings, data and machine gives the same result."


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
    """Return whether an option of a chat template is not for the settings.

    These are arguments of transformers and the texts of special tokens, such as `eos_token`.
    """
    return name in RESERVED or name.endswith("_token")


@dataclass(frozen=True, kw_only=True)
class ChatSettings(RecipeConfig):
    """Settings for converting chats to text, shared by training, generation and evaluation."""

    chat_template_kwargs: dict[str, Any] | None = option(  # noqa: RUF009 - a field
        None,
        'Options of the model\'s chat template, as a JSON object such as {"enable_thinking": false}. '
        "Empty: those that the model or adapter was trained with, or none.",
        label="Chat template options",
        advanced=True,
    )
    chat_date: str = option(
        "",
        "Date that the chat template prints, as YYYY-MM-DD, if it prints one. Empty: the date that the "
        "model or adapter was trained with, or the day on which the run begins.",
        label="Date in chats",
        advanced=True,
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

    A recipe adds further settings, and may redeclare one to change its default.
    """

    epochs: float = option(
        1.0,
        "Number of passes over the data. Models overfit preferences quickly; one to three passes are usual.",
        min=0.01,
        max=50,
    )
    learning_rate: float = option(
        1e-4,
        "Peak learning rate. LoRA needs about ten times that of full fine-tuning, and small models more.",
        min=1e-8,
        max=1.0,
    )
    batch_size: int = option(
        16,
        "Prompts, with all their responses, per optimizer step.",
        label="Prompts per step",
        min=1,
        max=4096,
    )
    micro_batch_size: int = option(
        4,
        "Prompts per forward pass; must divide the prompts per step. Changes memory and speed, and the "
        "result only through the random numbers of LoRA's dropout. Halved automatically when memory "
        "runs out.",
        label="Prompts per forward pass",
        min=1,
        max=4096,
    )
    lora_r: int = option(
        16,
        "Rank of the LoRA matrices. A higher rank can learn more, and overfit more.",
        label="LoRA rank",
        min=1,
        max=1024,
    )
    lora_alpha: int = option(
        32, "Scale of the LoRA update; usually twice the rank.", label="LoRA alpha", min=1, max=4096
    )
    lora_variant: str = option(
        "lora",
        "lora: as published. rslora: scales the update by α/√r instead of α/r, for ranks above 64. "
        "dora: also trains the length of each row of the weights; slower, sometimes better at low "
        "ranks.",
        choices=("lora", "rslora", "dora"),
        label="Kind of LoRA",
        advanced=True,
    )
    warmup: float = option(
        0.1,
        "Share of the steps over which the learning rate rises to its peak.",
        label="Warm-up",
        min=0,
        max=1,
        advanced=True,
    )
    schedule: str = option(
        "cosine",
        "Course of the learning rate after the warm-up.",
        choices=("cosine", "linear", "constant_with_warmup"),
        advanced=True,
    )
    weight_decay: float = option(0.0, "Weight decay of AdamW.", min=0, max=1, advanced=True)
    max_grad_norm: float = option(
        1.0, "Gradients are clipped to this norm.", min=1e-6, max=1e6, advanced=True
    )
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES, advanced=True)
    seed: int = option(0, SEED_HELP, min=0, max=2**31 - 1, advanced=True)
    checkpoint_steps: int = option(
        0,
        "Optimizer steps between checkpoints. 0: ten to twenty checkpoints per run.",
        label="Checkpoint every",
        min=0,
        max=1_000_000,
        advanced=True,
    )
    tokens_at_once: int | None = option(
        None,
        "Maximum tokens per forward pass, in addition to the limit on prompts. The prompts of a step are "
        "sorted by length and divided into passes that fit; a longer prompt gets its own pass. Changes "
        "memory and speed only. Empty: no limit.",
        label="Tokens per forward pass",
        min=1,
        advanced=True,
    )
    layout: str = option(
        "auto",
        "shared forwards the prompt once for all its responses; plain gives each response its own "
        "copy. auto uses shared if both agree on the first step.",
        choices=("auto", "plain"),
        advanced=True,
    )
    packing: str = option(
        "auto",
        "Pack the prompts of a forward pass into one row without padding. auto: on the CPU and with "
        "FlexAttention, which skip masked positions; otherwise a long row costs more than padding.",
        choices=("auto", "always", "never"),
        advanced=True,
    )
    quantize: str = option(
        "none",
        "Precision of the frozen weights. nf4 uses four bits (QLoRA), which fits a model four times as "
        "large on the GPU but is slower. Needs CUDA and the package bitsandbytes.",
        choices=("none", "nf4"),
        advanced=True,
    )
    compile: bool = option(
        False,
        "Compile the model's layers with torch.compile. Takes about a minute, and is faster in longer "
        "runs on a GPU.",
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


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(RecipeConfig):
    """Settings for the use of ties, strengths, weights and the unacceptable line in the loss."""

    strength: str = option(
        "ignore",
        "Use of graded judgments (slightly, clearly, much better). ignore: like any other win. margin: "
        "the gap in score must grow with the strength. soft: the strength is the certainty of the "
        "judgment.",
        choices=("ignore", "margin", "soft"),
        label="Graded strength",
        advanced=True,
    )
    strength_scale: float = option(
        1.0,
        "Gap in score per step of strength.",
        min=0,
        max=10,
        advanced=True,
    )
    label_smoothing: float = option(
        0.0,
        "Assumed share of wrong judgments: each win counts this much for the other side.",
        min=0,
        max=0.49,
        advanced=True,
    )
    smoothing: str = option(
        "conservative",
        "Use of the assumed share of wrong judgments. conservative: trains towards that uncertainty. "
        "robust: corrects the loss, so that its expectation is that of right judgments; needs a share "
        "that is not too high.",
        choices=("conservative", "robust"),
        label="Kind of label smoothing",
        advanced=True,
    )
    reviewer_weights: str = option(
        "full",
        "Use of the weights of rankings. full: also between prompts, so that a prompt judged only by "
        "unreliable reviewers counts less. within: only between rankings of the same prompt. "
        "ignore: all rankings count the same.",
        choices=("full", "within", "ignore"),
        advanced=True,
    )
    ties: str = option(
        "half",
        "Meaning of a tie. half: half a win for each side. davidson and rao_kupper: a separate "
        "outcome, likely if the scores are close; its width follows from the share of ties.",
        choices=("half", "davidson", "rao_kupper"),
        advanced=True,
    )
    cut_weight: float = option(
        0.0,
        "Weight of the unacceptable line relative to the order. The line pulls scores of acceptable "
        "responses above 0 and those of others below, so that scores of different prompts can be "
        "compared. 0: the order only.",
        label="Weight of the line",
        min=0,
        max=100,
        advanced=True,
    )


class ObjectiveSettings(Protocol):
    """The settings that the objective reads: PreferenceSettings and those for several outputs."""

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
    """The settings for the storage of frozen weights."""

    @property
    def quantize(self) -> str: ...

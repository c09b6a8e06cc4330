"""The settings that every training recipe has: the optimizer, LoRA, precision and checkpoints."""

from dataclasses import dataclass
from typing import Protocol

from recipes.settings import RecipeConfig, option

DTYPES = ("auto", "float32", "bfloat16")
DTYPE_HELP = "Number format. auto: bfloat16 on a GPU that has it, else float32."
SEED_HELP = "The same seed with the same settings, data and machine gives the same result."


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(RecipeConfig):
    """A recipe adds its own settings, and may declare one again with another default or help."""

    epochs: float = option(
        1.0,
        "How often each prompt is seen. Preferences overfit fast: one to three.",
        min=0.01,
        max=50,
    )
    learning_rate: float = option(
        1e-4,
        "Peak learning rate. LoRA needs about ten times that of full fine-tuning; small models more.",
        min=1e-8,
        max=1.0,
    )
    batch_size: int = option(
        16,
        "Prompts (with all their responses) per optimizer step.",
        label="Prompts per step",
        min=1,
        max=4096,
    )
    micro_batch_size: int = option(
        4,
        "Prompts per forward pass. Changes memory and speed, and the result only as another draw of "
        "LoRA's dropout would; must divide the prompts per step. Halved automatically when memory "
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
        32, "LoRA scale; twice the rank is usual.", label="LoRA alpha", min=1, max=4096
    )
    warmup: float = option(
        0.1,
        "Share of the steps in which the learning rate rises.",
        label="Warm-up",
        min=0,
        max=1,
        advanced=True,
    )
    schedule: str = option(
        "cosine",
        "How the learning rate falls after the warm-up.",
        choices=("cosine", "linear", "constant_with_warmup"),
        advanced=True,
    )
    weight_decay: float = option(0.0, "AdamW's weight decay.", min=0, max=1, advanced=True)
    max_grad_norm: float = option(
        1.0, "Gradients are clipped to this norm.", min=1e-6, max=1e6, advanced=True
    )
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, more time.", advanced=True
    )
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES, advanced=True)
    seed: int = option(0, SEED_HELP, min=0, max=2**31 - 1, advanced=True)
    checkpoint_steps: int = option(
        0,
        "Optimizer steps between checkpoints. 0: twenty checkpoints per run, and one at the end.",
        label="Checkpoint every",
        min=0,
        max=1_000_000,
        advanced=True,
    )

    def conflicts(self) -> dict[str, str]:
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            name = self.label_of("batch_size").lower()
            text = f"{self.micro_batch_size} does not divide the {self.batch_size} {name}."
            return {"micro_batch_size": text}
        return {}


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(RecipeConfig):
    """What the loss makes of ties, strengths, weights and the unacceptable line."""

    strength: str = option(
        "ignore",
        "How a graded judgment (slightly, clearly, much better) is used. margin asks for a gap in "
        "score that grows with the strength; soft takes the strength as how sure the judgment is.",
        choices=("ignore", "margin", "soft"),
        label="Graded strength",
        advanced=True,
    )
    strength_scale: float = option(
        1.0,
        "The gap in score that one step of strength stands for.",
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
    reviewer_weights: str = option(
        "full",
        "How the weights of rankings count. full: everywhere, so that a prompt judged only by "
        "unreliable reviewers teaches less. within: only against other rankings of the same prompt. "
        "ignore: all rankings weigh the same.",
        choices=("full", "within", "ignore"),
        advanced=True,
    )
    ties: str = option(
        "half",
        "What a tie means. half: half a win for each side. davidson and rao_kupper: an outcome of "
        "its own, likely where the scores are close; how wide that is follows from the share of ties.",
        choices=("half", "davidson", "rao_kupper"),
        advanced=True,
    )
    cut_weight: float = option(
        0.0,
        "How much the unacceptable line counts compared with the order. It pulls scores above 0 for "
        "acceptable responses and below 0 for the others, so that scores of different prompts can "
        "be compared. 0: the order alone.",
        label="Weight of the line",
        min=0,
        max=100,
        advanced=True,
    )


class ObjectiveSettings(Protocol):
    """The settings that the objective reads: PreferenceSettings, and those of several outputs."""

    @property
    def strength(self) -> str: ...
    @property
    def strength_scale(self) -> float: ...
    @property
    def label_smoothing(self) -> float: ...
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
    """The settings that decide how frozen weights are stored."""

    @property
    def quantize(self) -> str: ...
    @property
    def gradient_checkpointing(self) -> bool: ...

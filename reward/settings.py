"""The settings of the reward-model recipe. Torch-free: the web form is made from this class."""

from dataclasses import MISSING, dataclass

from recipes.settings import RecipeConfig, option


@dataclass(frozen=True, kw_only=True)
class RewardConfig(RecipeConfig):
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
    batch_size: int = option(
        16,
        "Prompts (with all their responses) behind one step of the optimizer.",
        label="Prompts per step",
        min=1,
        max=4096,
    )
    micro_batch_size: int = option(
        4,
        "Prompts forwarded at once. Changes memory and speed, and the result no more than another "
        "draw of LoRA's dropout does; must divide the prompts per step. Halved by itself when memory "
        "runs out.",
        label="Prompts at once",
        min=1,
        max=4096,
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
        "doubtful reviewers teaches less. within: only against other rankings of the same prompt. "
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
        "How much the line under which all is unacceptable counts compared with the order. It pulls "
        "scores above 0 for acceptable responses and below 0 for the others, so that scores of "
        "different prompts can be compared. 0: the order alone.",
        label="Weight of the line",
        min=0,
        max=100,
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
    lora_alpha: int = option(
        32, "LoRA scale; twice the rank is usual.", label="LoRA alpha", min=1, max=4096
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
    dtype: str = option(
        "auto",
        "Number format of the forward pass. auto: bfloat16 on a GPU that has it, else float32.",
        choices=("auto", "float32", "bfloat16"),
        advanced=True,
    )
    quantize: str = option(
        "none",
        "How the frozen weights are held. nf4: four bits each, which fits a model four times as large "
        "on the GPU and is slower (QLoRA); needs CUDA and the package bitsandbytes.",
        choices=("none", "nf4"),
        advanced=True,
    )
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, more time.", advanced=True
    )
    compile: bool = option(
        False,
        "Compile the model's layers with torch.compile: fewer passes over memory, after a minute or "
        "so of compiling. Pays on a GPU in runs that are longer than that.",
        advanced=True,
    )
    warmup: float = option(
        0.1, "Share of the steps in which the learning rate rises.", min=0, max=1, advanced=True
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
    seed: int = option(
        0, "Same seed, same data, same machine: same model.", min=0, max=2**31 - 1, advanced=True
    )
    checkpoint_steps: int = option(
        0,
        "Steps between checkpoints. 0: twenty times a run, and at the end.",
        label="Checkpoint every",
        min=0,
        advanced=True,
    )

    def conflicts(self) -> dict[str, str]:
        if self.batch_size % self.micro_batch_size:
            text = (
                f"{self.micro_batch_size} does not divide the {self.batch_size} prompts per step."
            )
            return {"micro_batch_size": text}
        if self.learning_curve in (1, 2):
            return {"learning_curve": "A curve needs 3 halvings or more; 0 leaves it out."}
        if self.label_mistakes == 1:
            return {"label_mistakes": "One part leaves nothing to train on: 2 or more, or 0."}
        if self.quantize != "none" and not self.lora_r:
            text = "With LoRA rank 0 every weight is trained, and weights of four bits cannot be."
            return {"quantize": text}
        return {}

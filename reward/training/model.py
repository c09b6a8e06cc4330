"""A reward model: any decoder of transformers with LoRA and one number at the end, or a few.

The weights are those of an ordinary `AutoModelForSequenceClassification` with an ordinary PEFT
adapter around it, so that any tool can load what is saved here. Its labels are the heads, whose mean
is the score, and after them the rated criteria. `RewardModel` only adds the shared-prompt way of calling it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from reward.recipe_config import RewardConfig
from reward.training import attention
from reward.training.layout import Batch, Collator, block_mask, for_model
from reward.training.tokens import TokenGroup
from reward.training.trainer_events import RecipeError, is_out_of_memory

UNLIMITED = 10**9
"""Tokenizers without a limit say something beyond this."""


class RewardModel(nn.Module):
    """From a batch of either layout: scores (G, K), and outputs (G, K, N + C), heads before criteria.

    `ordinary` is the model as others know it.
    """

    accepts_loss_kwargs = True
    """Makes Trainer count `labels`, one a group, over all micro-batches of a step."""

    def __init__(self, ordinary: nn.Module, heads: int = 1):
        super().__init__()
        self.ordinary = ordinary
        self.heads = heads
        self.in_pieces = self.classifier.config._attn_implementation == attention.NAME
        self.register_state_dict_post_hook(_keep_what_is_trained)
        self.register_load_state_dict_post_hook(_miss_only_what_is_trained)

    @property
    def classifier(self) -> Any:
        """The sequence classifier itself, under the adapter if there is one."""
        inner: Any = self.ordinary
        return inner.get_base_model() if isinstance(inner, PeftModel) else inner

    @property
    def config(self) -> Any:
        return self.classifier.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(
        self,
        input_ids: torch.Tensor,
        present: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        ends: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        if segment_ids is not None:
            outputs = self._shared(input_ids, position_ids, segment_ids, ends, lengths)
        else:
            everything = torch.ones_like(input_ids)
            mask = everything if attention_mask is None else attention_mask
            outputs = self._plain(input_ids, mask)[rows]  # (rows, N + C) → (G, K, N + C)
        outputs = outputs.masked_fill(~present[..., None], 0.0)
        return {"scores": outputs[..., : self.heads].mean(dim=-1), "outputs": outputs}

    def _shared(
        self,
        input_ids: torch.Tensor,  # (G, T)
        position_ids: torch.Tensor | None,  # (G, T)
        segment_ids: torch.Tensor,  # (G, T)
        ends: torch.Tensor | None,  # (G, K)
        lengths: torch.Tensor | None,  # (G, K + 1)
    ) -> torch.Tensor:
        how: dict[str, Any] = {"position_ids": position_ids}
        if self.in_pieces and lengths is not None:
            nothing = torch.zeros(1, 1, 1, 1, dtype=self._dtype(), device=input_ids.device)
            # A mask of four dimensions keeps the family from making one of its own.
            how["attention_mask"] = nothing
            how["pieces"] = attention.cut_rows(lengths.tolist(), like=nothing)
        else:
            how["attention_mask"] = block_mask(segment_ids, self._dtype())  # (G, 1, T, T)
        hidden = self._backbone(input_ids, **how)  # (G, T, H)
        groups = torch.arange(len(hidden), device=hidden.device)[:, None]  # (G, 1)
        return self._head(hidden[groups, ends])  # (G, K, H) → (G, K, N)

    def _plain(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        if not hasattr(self.classifier, "score"):  # an encoder, with a head of its own shape
            output = self.ordinary(input_ids=input_ids, attention_mask=attention_mask)
            return output.logits.float()
        hidden = self._backbone(input_ids, attention_mask=attention_mask)  # (rows, T, H)
        last = attention_mask.sum(dim=1) - 1  # padding is on the right
        rows = torch.arange(len(hidden), device=hidden.device)
        return self._head(hidden[rows, last])  # (rows, N)

    def _backbone(self, input_ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        backbone = getattr(self.classifier, self.classifier.base_model_prefix)
        return backbone(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """In float32 even under autocast: bfloat16 cannot tell close scores apart."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.classifier.score(hidden.float())

    def _dtype(self) -> torch.dtype:
        kind = self.device.type
        if torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return self.classifier.dtype


def _keep_what_is_trained(module: nn.Module, state: dict, prefix: str, metadata: Any) -> None:
    """Checkpoints hold the trained weights; the frozen ones are in the base model already."""
    frozen = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    for name in frozen:
        state.pop(prefix + name, None)


def _miss_only_what_is_trained(module: nn.Module, keys: Any) -> None:
    frozen = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]
    if keys.missing_keys:
        raise RecipeError(f"The checkpoint lacks {keys.missing_keys[0]}; it is of another model.")


# --- making and loading ---------------------------------------------------------------------------


def make_reward_model(config: RewardConfig, tokenizer: Any, *, criteria: int = 0) -> RewardModel:
    """Base, fresh heads and fresh adapter. The caller has set the seed."""
    dtype = torch_dtype(config.dtype)
    # Trained in full, the weights themselves need float32; autocast does the forward pass.
    dtype = dtype if config.lora_r else torch.float32
    base = load_base(config.base_model, dtype, tokenizer, outputs=config.heads + criteria)
    if config.gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    if not config.lora_r:
        return RewardModel(base, config.heads)
    name, revision = split_reference(config.base_model)
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        modules_to_save=["score"] if hasattr(base, "score") else None,
        base_model_name_or_path=name,
        revision=revision,
    )
    return RewardModel(get_peft_model(base, lora), config.heads)


def load_base(reference: str, dtype: torch.dtype, tokenizer: Any, *, outputs: int = 1) -> Any:
    """The base with a head of so many numbers. Raises RecipeError with a sentence where there is none."""
    name, revision = split_reference(reference)
    try:
        base = AutoModelForSequenceClassification.from_pretrained(
            name, revision=revision, num_labels=outputs, dtype=dtype
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"The model {reference} cannot be loaded: {error}") from error
    base.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if hasattr(base, "score"):
        base.score.float()
    if base.config._attn_implementation == "sdpa" and not torch.cuda.is_available():
        attend_in_pieces(base)
    return base


def attend_in_pieces(base: Any) -> None:
    """Swap SDPA for the attention that skips what no token may see; for families that allow it."""
    attention.register()
    try:
        base.set_attn_implementation(attention.NAME)
    except ValueError:  # the family has an attention of its own
        base.set_attn_implementation("sdpa")


def load_tokenizer(reference: str, *, adapter: bool = False) -> Any:
    """The model's tokenizer, with a padding token that is not its end token if it has any to spare.

    Sequence classifiers find a text's end as the last token that is no padding, so an end token
    that doubles as padding would make other tools read the score one token too early.
    """
    name, revision = split_reference(reference)
    if not adapter and (Path(name) / "adapter_config.json").is_file():
        raise RecipeError(f"{reference} is an adapter. Choose the model that it belongs to.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise RecipeError(f"The tokenizer of {reference} cannot be loaded: {error}") from error
    choices = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token)
    spare = next((token for token in choices if token and token != tokenizer.eos_token), None)
    tokenizer.pad_token = spare or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise RecipeError(f"The tokenizer of {reference} has no token that could serve as padding.")
    return tokenizer


def load_reward_model(
    folder: Path, tokenizer: Any, dtype: str = "auto", *, heads: int = 1, criteria: int = 0
) -> RewardModel:
    """What a reward run published, ready to score. An adapter does not say how many outputs it has."""
    outputs = heads + criteria
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        base = load_base(str(folder), torch_dtype(dtype), tokenizer, outputs=outputs)
        return RewardModel(base, heads).eval()
    spec = json.loads(adapter.read_text())
    reference = spec["base_model_name_or_path"]
    if spec.get("revision"):
        reference = f"{reference}@{spec['revision']}"
    base = load_base(reference, torch_dtype(dtype), tokenizer, outputs=outputs)
    return RewardModel(PeftModel.from_pretrained(base, folder), heads).eval()


def split_reference(reference: str) -> tuple[str, str | None]:
    """`repo@revision` → (repo, revision); a folder's name may hold an @."""
    if Path(reference).is_dir() or "@" not in reference:
        return reference, None
    name, revision = reference.rsplit("@", 1)
    return name, revision


def torch_dtype(name: str) -> torch.dtype:
    if name == "auto":
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if bf16 else torch.float32
    return getattr(torch, name)


def readable_tokens(reference: str, tokenizer: Any, wanted: int | None) -> int:
    """The longest input the model can read, or `wanted` if that is less."""
    name, revision = split_reference(reference)
    text = AutoConfig.from_pretrained(name, revision=revision).get_text_config()
    limits = [getattr(text, "max_position_embeddings", None), tokenizer.model_max_length, wanted]
    return int(min(limit for limit in [*limits, UNLIMITED] if limit))


# --- does the shared layout hold for this family? -------------------------------------------------


def check_shared(
    model: RewardModel, groups: Sequence[TokenGroup], pad_id: int, *, longest: int
) -> str | None:
    """Why the shared layout must not be used here, or None when both layouts score these groups alike.

    `longest` is the longest input of all that will follow, in tokens. Forwards the groups twice without gradients, in evaluation mode, drawing no random numbers.
    """
    problem = window_problem(model.config, longest)
    if problem:
        return problem
    plain = outputs_of(model, groups, Collator(pad_id, "plain"))
    problem = _shared_problem(model, groups, pad_id, plain)
    if problem and model.in_pieces:
        model.in_pieces = False
        problem = _shared_problem(model, groups, pad_id, plain)
    return problem


def _shared_problem(
    model: RewardModel, groups: Sequence[TokenGroup], pad_id: int, plain: torch.Tensor
) -> str | None:
    try:
        shared = outputs_of(model, groups, Collator(pad_id, "shared"))
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return f"it fails in the shared layout ({type(error).__name__}: {str(error)[:200]})"
    difference = (shared - plain).abs().max().item()
    scale = max(1.0, plain.abs().max().item())
    allowed = scale * (1e-4 if model.classifier.dtype == torch.float32 else 5e-2)
    if not difference <= allowed:
        return f"its scores differ by {difference:.3g} between the two layouts"
    return None


def window_problem(config: Any, longest: int) -> str | None:
    """Why inputs of so many tokens need the plain layout, or None.

    A block mask replaces the family's own, so a window that would have hidden something is lost.
    """
    text = config.get_text_config()
    for name in ("sliding_window", "attention_chunk_size"):
        window = getattr(text, name, None)
        if window and longest > window:
            return f"it looks back only {window} tokens and inputs have up to {longest}"
    return None


def score_groups(
    model: RewardModel, groups: Sequence[TokenGroup], collator: Collator
) -> torch.Tensor:
    """Scores of one batch of groups, in evaluation mode.  → (G, K) float32 on the CPU"""
    return outputs_of(model, groups, collator)[..., : model.heads].mean(dim=-1)


@torch.no_grad()
def outputs_of(
    model: RewardModel, groups: Sequence[TokenGroup], collator: Collator
) -> torch.Tensor:
    """All outputs for one batch of groups, in evaluation mode.  → (G, K, N + C) float32 on the CPU"""
    batch: Batch = collator(groups)
    inputs = {name: values.to(model.device) for name, values in for_model(batch).items()}
    was_training = model.training
    model.eval()
    try:
        return model(**inputs)["outputs"].float().cpu()
    finally:
        model.train(was_training)

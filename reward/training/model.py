"""A reward model: a decoder or encoder of transformers with LoRA and one number at the end, or a few.

The weights are those of an ordinary `AutoModelForSequenceClassification` with an ordinary PEFT
adapter around it, so that any tool can load what is saved here. Its labels are the heads, whose mean
is the score, and after them the rated criteria. `RewardModel` only adds the shared-prompt way of calling it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
)

from recipes.errors import RecipeError
from recipes.layout import attention
from recipes.layout.collate import Batch, Collator
from recipes.layout.forward import evaluating, inputs_of
from recipes.models import quantization
from recipes.models.loading import read_adapter, read_config, read_tokenizer
from recipes.models.references import split_reference, torch_dtype
from recipes.preferences.tokens import TokenGroup
from recipes.rundir import MOVED_BASE
from reward.settings import RewardConfig
from reward.training.adapter import with_adapter

UNLIMITED = 10**9
"""Tokenizers without a limit say something beyond this."""
POSITIONS_AFTER_PADDING = frozenset({"camembert", "longformer", "mpnet", "roberta", "xlm-roberta"})
"""Families whose first position is numbered after the padding token."""
OWN_DROPOUT = ("activation_dropout", "attention_dropout", "dropout", "hidden_dropout")
"""What modules call a share of what they drop by themselves."""


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
        self.attends = attention.way_of(self.classifier.config)
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
        self, input_ids: torch.Tensor, present: torch.Tensor, **laid_out: Any
    ) -> dict[str, torch.Tensor]:
        """`laid_out` is what else a layout makes: see `features`."""
        if self.reads_last_token:
            outputs = self._head(self.features(input_ids, **laid_out))  # (G, K, N + C)
        else:
            outputs = self._by_own_head(input_ids, **laid_out)
        outputs = outputs.masked_fill(~present[..., None], 0.0)
        return {"scores": outputs[..., : self.heads].mean(dim=-1), "outputs": outputs}

    def features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        **shared: torch.Tensor,
    ) -> torch.Tensor:
        """What the head reads: a decoder's last layer at each response's last token.  → (G, K, H)

        `shared` is the rest of a batch of the shared layout; none of it in the plain one.
        """
        if shared:
            return self._shared({"input_ids": input_ids, **shared})
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._plain(input_ids, mask)[rows]

    @property
    def reads_last_token(self) -> bool:
        """Whether it is a decoder; an encoder pools its tokens and has a head of its own shape."""
        return hasattr(self.classifier, "score")

    def _shared(self, batch: Batch) -> torch.Tensor:
        way = attention.usable(self.attends, batch["input_ids"].device.type)
        hidden = self._backbone(**attention.inputs_of(way, batch, self._dtype()))
        return hidden[batch["placed"][:, None], batch["ends"]]  # (B, T, H) → (G, K, H)

    def _plain(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self._backbone(input_ids, attention_mask=attention_mask)  # (rows, T, H)
        last = attention_mask.sum(dim=1) - 1  # padding is on the right
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    def _by_own_head(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """An encoder pools as its family does: most at their first token.  → (G, K, N + C)"""
        said = self.ordinary(input_ids=input_ids, attention_mask=attention_mask).logits  # (rows, …)
        return said.float()[rows]

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
    base, fresh = read_base(
        config.base_model,
        dtype,
        tokenizer,
        outputs=config.heads + criteria,
        **quantization.loading(config, dtype),
    )
    refuse_damaged(config.base_model, base, fresh)
    without_dropout(base)
    if quantization.is_quantized(base):
        quantization.prepare_for_training(base, config)
    elif config.gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    if config.lora_r:
        base = with_adapter(base, config, fresh, *split_reference(config.base_model))
    return RewardModel(base, config.heads)


def read_base(
    reference: str, dtype: torch.dtype, tokenizer: Any, *, outputs: int = 1, **loading: Any
) -> tuple[Any, list[str]]:
    """The base with a head of so many numbers, and the names of the weights that are fresh.

    `loading` goes to `from_pretrained`.
    Raises RecipeError with a sentence where none can be made of it.
    """
    name, revision = split_reference(reference)
    refuse_family(reference)
    try:
        base, loaded = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=revision,
            config=read_config(name, revision, num_labels=outputs),
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            ignore_mismatched_sizes=True,  # a base that is a classifier of other labels already
            output_loading_info=True,
            **loading,
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"The model {reference} cannot be loaded: {error}") from error
    base.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if hasattr(base, "score"):
        base.score.float()
    elif not quantization.is_quantized(base):
        base.float()  # an encoder is small, and its own head gives what its own layers are
    attention.attend(base, "cuda" if torch.cuda.is_available() else "cpu")
    fresh = [*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])]
    return base, sorted(fresh)


def without_dropout(base: nn.Module) -> None:
    """Two responses are compared as one and the same model reads them; noise would not cancel.

    LoRA brings its own dropout, which the settings decide about.
    """
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in OWN_DROPOUT:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def refuse_damaged(reference: str, base: Any, fresh: Sequence[str]) -> None:
    """Raises RecipeError where the checkpoint lacks more than a head and a pooling layer."""
    inside = [key for key in fresh if key.startswith(f"{base.base_model_prefix}.")]
    lacking = [key for key in inside if "pool" not in key]
    if lacking:
        raise RecipeError(
            f"The checkpoint of {reference} lacks {len(lacking)} weights that its configuration "
            f"asks for, such as {lacking[0]}; they would be random. Was it downloaded whole?"
        )


def refuse_family(reference: str) -> None:
    """Raises RecipeError for what no reward model can be made of. Reads the configuration alone."""
    name, revision = split_reference(reference)
    try:
        config = read_config(name, revision)
    except (OSError, ValueError) as error:
        raise RecipeError(f"The model {reference} cannot be loaded: {error}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise RecipeError(
            f"{reference} is an encoder with a decoder ({config.model_type}). Choose a model that "
            "is one of the two."
        )
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise RecipeError(
            f"transformers has no sequence classifier for the family {config.model_type} of "
            f"{reference}, so no reward model can be made of it. Choose another base model."
        )


def load_tokenizer(reference: str, *, adapter: bool = False) -> Any:
    """The model's tokenizer, with a padding token that is not its end token if it has any to spare.

    Sequence classifiers find a text's end as the last token that is no padding, so an end token
    that doubles as padding would make other tools read the score one token too early.
    """
    name, revision = split_reference(reference)
    if not adapter and (Path(name) / "adapter_config.json").is_file():
        raise RecipeError(f"{reference} is an adapter. Choose the model that it belongs to.")
    try:
        tokenizer = read_tokenizer(name, revision)
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
        base, fresh = read_base(str(folder), torch_dtype(dtype), tokenizer, outputs=outputs)
        _refuse_fresh(folder, fresh, ())
        return RewardModel(base, heads).eval()
    spec = json.loads(adapter.read_text())
    reference = base_of(folder, spec)
    base, fresh = read_base(reference, torch_dtype(dtype), tokenizer, outputs=outputs)
    _refuse_fresh(folder, fresh, spec.get("modules_to_save") or ())
    return RewardModel(read_adapter(base, folder), heads).eval()


def base_of(folder: Path, spec: dict[str, Any]) -> str:
    """Return the reference of an adapter's base; a note next to the folder says that it has moved."""
    moved = folder.absolute().parent / MOVED_BASE
    if moved.is_file():
        return moved.read_text().strip()
    name = spec["base_model_name_or_path"]
    return f"{name}@{spec['revision']}" if spec.get("revision") else name


def _refuse_fresh(folder: Path, fresh: Sequence[str], saved: Sequence[str]) -> None:
    """Weights that are in neither base nor adapter would be random, and so would the scores be."""
    beside = tuple(f"{name}." for name in saved)
    lacking = [name for name in fresh if not name.startswith(beside)]
    if lacking:
        raise RecipeError(
            f"{folder} and its base model lack {lacking[0]}, without which scores mean nothing. "
            "Was a file lost, or is the base model another one than at the training?"
        )


def readable_tokens(reference: str, tokenizer: Any, wanted: int | None) -> int:
    """The longest input the model can read, or `wanted` if that is less.

    With rotary positions that are rescaled from some length on, that length: one long text would
    otherwise change the scores of all that are forwarded with it.
    """
    name, revision = split_reference(reference)
    text = read_config(name, revision).get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions and text.model_type in POSITIONS_AFTER_PADDING:
        positions -= text.pad_token_id + 1
    limits = [positions, _rescaled_from(text), tokenizer.model_max_length, wanted]
    return int(min(limit for limit in [*limits, UNLIMITED] if limit))


def _rescaled_from(text: Any) -> int | None:
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    if not any(part.get("rope_type") == "longrope" for part in kinds):
        return None
    found = [part.get("original_max_position_embeddings") for part in kinds]
    return min(filter(None, found), default=getattr(text, "original_max_position_embeddings", None))


# --- asking it --------------------------------------------------------------------------------------


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
    inputs = inputs_of(model, groups, collator)
    with evaluating(model):
        return model(**inputs)["outputs"].float().cpu()

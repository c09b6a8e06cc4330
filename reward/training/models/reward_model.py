"""A reward model: a decoder or encoder of transformers with LoRA, and one or several scalar outputs.

The weights are those of a plain `AutoModelForSequenceClassification` with a plain PEFT adapter, so any
tool can load a saved model. Its labels are the heads, whose mean is the score, and then the rated
criteria. `RewardModel` only adds the forward pass with a shared prompt.
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
from recipes.layout.forward import outputs_of
from recipes.models import quantization
from recipes.models.adapter import save_trained_weights_only
from recipes.models.loading import (
    LOADING_ERRORS,
    read_adapter,
    read_config,
    read_tokenizer,
    why_not_loaded,
)
from recipes.models.references import split_reference, torch_dtype
from recipes.preferences.tokens import TokenGroup
from recipes.rundir import MOVED_BASE
from reward.settings import RewardConfig
from reward.training.models.adapter import with_adapter

UNLIMITED = 10**9
"""The limit above which a tokenizer has none. Such tokenizers report a very large number."""
POSITIONS_AFTER_PADDING = frozenset({"camembert", "longformer", "mpnet", "roberta", "xlm-roberta"})
"""Families whose position ids begin after the id of the padding token."""
OWN_DROPOUT = ("activation_dropout", "attention_dropout", "dropout", "hidden_dropout")
"""Attributes that contain the dropout rate of modules that apply dropout themselves."""


class RewardModel(nn.Module):
    """A model that returns scores, (G, K), and outputs, (G, K, N + C), in either layout.

    The outputs are the heads and then the criteria. `ordinary` is the plain sequence classifier, with
    its adapter if it has one.
    """

    reads_targets = False
    accepts_loss_kwargs = True
    """With this attribute, Trainer counts `labels`, one per group, over all parts of a step."""

    def __init__(self, ordinary: nn.Module, heads: int = 1):
        super().__init__()
        self.ordinary = ordinary
        self.heads = heads
        self.attends = attention.attention_of(self.classifier.config)
        save_trained_weights_only(self)

    @property
    def classifier(self) -> Any:
        """Return the sequence classifier without the adapter."""
        inner: Any = self.ordinary
        return inner.get_base_model() if isinstance(inner, PeftModel) else inner

    @property
    def inner(self) -> Any:
        """Return the classifier. All models with a shared prompt have this attribute."""
        return self.classifier

    @property
    def config(self) -> Any:
        return self.classifier.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(
        self, input_ids: torch.Tensor, present: torch.Tensor, **layout: Any
    ) -> dict[str, torch.Tensor]:
        """Return scores, (G, K), and outputs, (G, K, N + C).

        `layout` has the other tensors of the batch.
        """
        if self.reads_last_token:
            outputs = self._head(self.features(input_ids, **layout))  # (G, K, N + C)
        else:
            outputs = self._by_own_head(input_ids, **layout)
        outputs = outputs.masked_fill(~present[..., None], 0.0)
        return {"scores": outputs[..., : self.heads].mean(dim=-1), "outputs": outputs}

    def features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        **shared: torch.Tensor,
    ) -> torch.Tensor:
        """Return the last hidden state of a decoder at the last token of each response, (G, K, H).

        `shared` has the other tensors of a batch in the shared layout. In the plain layout, it is
        empty.
        """
        if shared:
            return self._shared({"input_ids": input_ids, **shared})
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._plain(input_ids, mask)[rows]

    @property
    def reads_last_token(self) -> bool:
        """Return whether this is a decoder. An encoder pools its tokens and has another kind of head."""
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
        """Return the outputs of an encoder, (G, K, N + C). Its own head pools the tokens."""
        logits = self.ordinary(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits.float()[rows]  # (rows, N + C) → (G, K, N + C)

    def _backbone(self, input_ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        backbone = getattr(self.classifier, self.classifier.base_model_prefix)
        return backbone(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the outputs in float32. bfloat16 cannot represent small differences in score."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.classifier.score(hidden.float())

    def _dtype(self) -> torch.dtype:
        kind = self.device.type
        if torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return self.classifier.dtype


# --- making and loading ---------------------------------------------------------------------------


def make_reward_model(config: RewardConfig, tokenizer: Any, *, criteria: int = 0) -> RewardModel:
    """Return the base model with new heads and a new adapter. The caller sets the seed."""
    dtype = torch_dtype(config.dtype)
    # Training of all weights needs them in float32. Autocast lowers the precision of the forward pass.
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
        prepare_quantized(base, config)
    elif config.gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    if config.lora_r:
        base = with_adapter(base, config, fresh)
    return RewardModel(base, config.heads)


def prepare_quantized(base: Any, config: RewardConfig) -> None:
    """Prepare four-bit weights for training. Raises RecipeError for an encoder."""
    if not hasattr(base, "score"):
        raise RecipeError(
            "quantize: nf4 is for decoders. Encoders are small and computed in float32; set it to none."
        )
    quantization.prepare_for_training(base, checkpointing=config.gradient_checkpointing)


def read_base(
    reference: str, dtype: torch.dtype, tokenizer: Any, *, outputs: int = 1, **loading: Any
) -> tuple[Any, list[str]]:
    """Return the base model with a head of `outputs` numbers, and the names of its new weights.

    `loading` is passed to `from_pretrained`. Raises RecipeError if the model cannot become a reward
    model.
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
            ignore_mismatched_sizes=True,  # the base may be a classifier with other labels
            output_loading_info=True,
            **loading,
        )
    except LOADING_ERRORS as error:
        raise RecipeError(
            f"The model {reference} cannot be loaded: {why_not_loaded(error)}"
        ) from error
    base.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if hasattr(base, "score"):
        base.score.float()
    elif not quantization.is_quantized(base):
        base.float()  # an encoder is small, and its head computes in the dtype of its layers
    attention.set_attention(base, "cuda" if torch.cuda.is_available() else "cpu")
    fresh = [*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])]
    return base, sorted(fresh)


def without_dropout(base: nn.Module) -> None:
    """Turn off dropout, so that the same model scores all responses to a prompt.

    LoRA has a dropout of its own, which is a setting.
    """
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in OWN_DROPOUT:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def refuse_damaged(reference: str, base: Any, fresh: Sequence[str]) -> None:
    """Raise RecipeError if the checkpoint lacks other weights than those of a head or a pooling layer."""
    inside = [key for key in fresh if key.startswith(f"{base.base_model_prefix}.")]
    missing = [key for key in inside if "pool" not in key]
    if missing:
        raise RecipeError(
            f"The checkpoint of {reference} lacks {len(missing)} weights of its configuration, such as "
            f"{missing[0]}, which would be random. Check that the download is complete."
        )


def refuse_family(reference: str) -> None:
    """Raise RecipeError if models of this family cannot become reward models.

    Only the configuration is read.
    """
    name, revision = split_reference(reference)
    try:
        config = read_config(name, revision)
    except LOADING_ERRORS as error:
        raise RecipeError(
            f"The model {reference} cannot be loaded: {why_not_loaded(error)}"
        ) from error
    if getattr(config, "is_encoder_decoder", False):
        raise RecipeError(
            f"{reference} is an encoder-decoder ({config.model_type}). Choose an encoder or a decoder."
        )
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise RecipeError(
            f"transformers has no sequence classifier for the family {config.model_type} of "
            f"{reference}, so no reward model can be made of it. Choose another base model."
        )


def load_tokenizer(reference: str, *, adapter: bool = False) -> Any:
    """Return the tokenizer of a model. If possible, its padding token differs from its end token.

    Sequence classifiers read the score at the last token that is not padding. If the end token were
    also the padding token, other tools would read the score one token too early.
    """
    name, revision = split_reference(reference)
    if not adapter and (Path(name) / "adapter_config.json").is_file():
        raise RecipeError(f"{reference} is an adapter. Choose its base model.")
    try:
        tokenizer = read_tokenizer(name, revision)
    except LOADING_ERRORS as error:
        raise RecipeError(
            f"The tokenizer of {reference} cannot be loaded: {why_not_loaded(error)}"
        ) from error
    choices = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token)
    spare = next((token for token in choices if token and token != tokenizer.eos_token), None)
    tokenizer.pad_token = spare or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise RecipeError(f"The tokenizer of {reference} has no token to use as padding.")
    return tokenizer


def load_reward_model(
    folder: Path, tokenizer: Any, dtype: str = "auto", *, heads: int = 1, criteria: int = 0
) -> RewardModel:
    """Return the reward model in the output folder of a run, for scoring.

    The numbers of heads and criteria are arguments, because an adapter does not record them.
    """
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
    """Return the reference of the base of an adapter.

    If the base has moved, its new path is in a note next to the folder.
    """
    moved = folder.absolute().parent / MOVED_BASE
    if moved.is_file():
        return moved.read_text().strip()
    name = spec["base_model_name_or_path"]
    return f"{name}@{spec['revision']}" if spec.get("revision") else name


def _refuse_fresh(folder: Path, fresh: Sequence[str], saved: Sequence[str]) -> None:
    """Raise RecipeError if weights are random, because neither base nor adapter contains them."""
    prefixes = tuple(f"{name}." for name in saved)
    missing = [name for name in fresh if not name.startswith(prefixes)]
    if missing:
        raise RecipeError(
            f"{folder} and its base model lack {missing[0]}, so scores would be random. Check that no "
            "file is missing and that the base model is the one used in training."
        )


def readable_tokens(reference: str, tokenizer: Any, maximum: int | None) -> int:
    """Return the maximum number of tokens that the model can read, or `maximum` if that is less.

    Some models rescale their rotary positions for inputs above a certain length. For these, this
    length is the limit, because otherwise one long text would change the scores of all texts in its
    batch.
    """
    name, revision = split_reference(reference)
    text = read_config(name, revision).get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions and text.model_type in POSITIONS_AFTER_PADDING:
        positions -= text.pad_token_id + 1
    limits = [positions, _rescaled_from(text), tokenizer.model_max_length, maximum]
    return int(min(limit for limit in [*limits, UNLIMITED] if limit))


def _rescaled_from(text: Any) -> int | None:
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    if not any(part.get("rope_type") == "longrope" for part in kinds):
        return None
    lengths = [part.get("original_max_position_embeddings") for part in kinds]
    return min(
        filter(None, lengths), default=getattr(text, "original_max_position_embeddings", None)
    )


# --- scoring ----------------------------------------------------------------------------------------


def score_groups(
    model: RewardModel, groups: Sequence[TokenGroup], collator: Collator
) -> torch.Tensor:
    """Return the scores of a batch, (G, K) float32 on the CPU, in evaluation mode."""
    return outputs_of(model, groups, collator)[..., : model.heads].mean(dim=-1)

"""The model that is fine-tuned: a causal language model with LoRA, which computes log π of responses.

The weights are those of a plain `AutoModelForCausalLM` with a plain PEFT adapter, so any tool can load
a saved adapter. `PolicyModel` only has a forward pass of its own. It forwards a prompt once for all
its responses, and computes the head only at the positions that predict a token of a response.

Legend: G groups, K responses in the largest group, B rows, T tokens in the longest row, N tokens of
all responses, H hidden size, V words of the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from finetune.settings import FinetuneSettings
from finetune.training.models.language_model import existing, turn_off_dropout
from recipes.errors import RecipeError
from recipes.layout import attention
from recipes.layout.collate import Batch, Collator
from recipes.layout.families import MAX_LAYOUT_DIFFERENCE, autocast, precision
from recipes.layout.forward import evaluating, inputs_of
from recipes.machine.memory import is_out_of_memory
from recipes.models import quantization
from recipes.models.adapter import lora_config, named_layers, save_trained_weights_only
from recipes.models.head import Head, gathered_logps, head_of, keep_head_input_contiguous
from recipes.models.loading import LOADING_ERRORS, read_adapter, read_config, why_not_loaded
from recipes.models.references import torch_dtype
from recipes.preferences.tokens import TokenGroup

LARGE = 1_000_000_000
"""The number of weights from which `gradient_checkpointing: auto` recomputes activations."""


class PolicyModel(nn.Module):
    """A policy that returns Σ log π of the responses of a batch, (G, K), in either layout.

    `ordinary` is the plain language model, with its adapter. Without a `head`, the log-probabilities
    are computed from the model's own logits, which take B·T·V numbers.
    """

    reads_targets = True
    reads_last_token = True
    accepts_loss_kwargs = True
    """With this attribute, Trainer counts `labels`, one per group, over all parts of a step."""

    def __init__(self, ordinary: nn.Module):
        super().__init__()
        self.ordinary = ordinary
        self.attends = attention.attention_of(self.inner.config)
        self.head: Head | None = head_of(self.inner)
        save_trained_weights_only(self)

    @property
    def inner(self) -> Any:
        """Return the causal language model without the adapter."""
        inner: Any = self.ordinary
        return inner.get_base_model() if isinstance(inner, PeftModel) else inner

    @property
    def config(self) -> Any:
        return self.inner.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(
        self,
        input_ids: torch.Tensor,  # (B, T)
        present: torch.Tensor,  # (G, K)
        target_rows: torch.Tensor,  # (N,)
        target_positions: torch.Tensor,
        target_ids: torch.Tensor,
        target_responses: torch.Tensor,
        **layout: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Return Σ log π of each response, (G, K), and the number of its tokens.

        `outputs` is the former as (G, K, 1). Both are float64, because a response of a hundred tokens
        has about -1,000 nats, which float32 rounds to 6e-5. Apple's GPUs have only float32.
        """
        inputs = self._inputs({"input_ids": input_ids, **layout})
        where = (target_rows, target_positions)
        if self.head is None:
            logits = self.ordinary(**inputs, use_cache=False).logits  # (B, T, V)
            logps = gathered_logps(logits[where], target_ids)  # (N,)
        else:
            logps = self.head.token_logps(self._hidden(inputs)[where], target_ids)  # (N,)
        sums = _add_up(
            logps if logps.device.type == "mps" else logps.double(), target_responses, present
        )
        counts = _add_up(torch.ones_like(logps), target_responses, present)
        return {"outputs": sums[..., None], "logps": sums, "counts": counts}

    def features(
        self,
        input_ids: torch.Tensor,
        target_rows: torch.Tensor,
        target_positions: torch.Tensor,
        target_ids: torch.Tensor,
        target_responses: torch.Tensor,
        **layout: torch.Tensor,
    ) -> torch.Tensor:
        """Return the inputs of the head, averaged over the tokens of each response, (G, K, H)."""
        hidden = self._hidden(self._inputs({"input_ids": input_ids, **layout}))  # (B, T, H)
        of_tokens = hidden[target_rows, target_positions].float()  # (N, H)
        responses = layout["ends"] if "ends" in layout else layout["rows"]  # (G, K)
        sums = _add_up(of_tokens, target_responses, responses)
        counts = _add_up(torch.ones_like(of_tokens[:, :1]), target_responses, responses)
        return sums / counts.clamp(min=1)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the inputs of the backbone for a batch of either layout."""
        if "attention_mask" in batch:
            return {name: batch[name] for name in ("input_ids", "attention_mask")}
        way = attention.usable(self.attends, batch["input_ids"].device.type)
        return attention.inputs_of(way, batch, self._dtype())

    def _hidden(self, inputs: dict[str, Any]) -> torch.Tensor:  # → (B, T, H)
        backbone = getattr(self.inner, self.inner.base_model_prefix)
        return backbone(**inputs, use_cache=False).last_hidden_state

    def _dtype(self) -> torch.dtype:
        kind = self.device.type
        if torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return self.inner.dtype


def _add_up(values: torch.Tensor, responses: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the sum of the values of each response. (N, …), (N,) → (G, K, …)."""
    sums = values.new_zeros((like.numel(), *values.shape[1:])).index_add(0, responses, values)
    return sums.view(*like.shape, *values.shape[1:])


# --- construction -------------------------------------------------------------------------------------


def make_policy(config: FinetuneSettings) -> PolicyModel:
    """Return the model with a new adapter, or with the adapter to continue from.

    The caller sets the seed. Dropout is off, because the reference has none. Raises RecipeError.
    """
    dtype = torch_dtype(config.dtype)
    base = _read_base(config, dtype)
    keep_head_input_contiguous(base)
    attention.set_attention(base, "cuda" if torch.cuda.is_available() else "cpu")
    recompute = recomputes(config, base)
    if quantization.is_quantized(base):
        prepare_quantized(base, dtype, recompute)
    elif recompute:
        base.activation_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    try:
        return PolicyModel(_with_adapter(base, config))
    except ValueError as error:
        raise RecipeError(f"The adapter cannot be put on {config.model}: {error}") from error


def _read_base(config: FinetuneSettings, dtype: torch.dtype) -> Any:
    name, revision = existing(config.model)
    try:
        model_config = read_config(name, revision)
        turn_off_dropout(model_config)
        return AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            config=model_config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            **quantization.loading(config, dtype),
        )
    except LOADING_ERRORS as error:
        message = f"The model {config.model} cannot be loaded: {why_not_loaded(error)}"
        raise RecipeError(message) from error


def prepare_quantized(base: Any, dtype: torch.dtype, recompute: bool) -> None:
    """Prepare 4-bit weights for training. The head stays in the number format of the run.

    PEFT would convert the head to float32, and the logits would take twice the memory and time.
    """
    quantization.prepare_for_training(base, checkpointing=recompute)
    base.get_output_embeddings().to(dtype)


def recomputes(config: FinetuneSettings, base: nn.Module) -> bool:
    """Return whether the backward pass recomputes activations."""
    if config.gradient_checkpointing == "auto":
        return sum(weight.numel() for weight in base.parameters()) >= LARGE
    return config.gradient_checkpointing == "on"


def _with_adapter(base: Any, config: FinetuneSettings) -> Any:
    if config.adapter:
        path, revision = existing(config.adapter)
        return read_adapter(base, path, revision, trainable=True)
    targets = named_layers(config.lora_targets)
    return get_peft_model(
        base, lora_config(config, TaskType.CAUSAL_LM, config.model, targets=targets)
    )


# --- the head ----------------------------------------------------------------------------------------


def check_head(policy: PolicyModel, groups: Sequence[TokenGroup], pad_id: int) -> str | None:
    """Return the reason not to use the policy's head, or None if it agrees with the model's logits.

    The log-probabilities of the first group are compared in evaluation mode, without gradients.
    """
    few, collator = groups[:1], Collator(pad_id, "plain", targets=True)
    if policy.head is None:
        return "it has no head of a known kind"
    head, policy.head = policy.head, None
    own = _logps(policy, few, collator)
    policy.head = head
    try:
        ours = _logps(policy, few, collator)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        problem = f"its head cannot be called alone ({type(error).__name__}: {str(error)[:200]})"
    else:
        difference = ((ours - own).abs().max() / own.abs().max().clamp(min=1.0)).item()
        if difference <= MAX_LAYOUT_DIFFERENCE.get(
            precision(policy), MAX_LAYOUT_DIFFERENCE[torch.bfloat16]
        ):
            return None
        problem = f"its log-probabilities differ by {difference:.2%} from those of its logits"
    policy.head = None
    return problem


@torch.no_grad()
def _logps(policy: PolicyModel, groups: Sequence[TokenGroup], collator: Collator) -> torch.Tensor:
    with evaluating(policy), autocast(policy.device, precision(policy)):
        return policy(**inputs_of(policy, groups, collator))["logps"]

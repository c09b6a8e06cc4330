"""The language models in the memory of the server: bases, each with several adapters.

The adapters of a base share its weights. Before each step, the layers are switched to the adapter of
the stream, which changes no weights. An adapter is not merged: a merge changes the shared weights. In a
batch (`batches.py`), each row has its own adapter.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig

from finetune.training.models.language_model import (
    PolicyChat,
    add_adapter,
    check_vocabulary,
    device,
    existing,
    load_model,
    load_tokenizer,
    readable_length,
)
from finetune.training.serving.linear import (
    add_int8_weights,
    clear_row_adapters,
    has_fast_int8,
    serve_linear_layers,
    set_row_adapters,
)
from recipes.errors import RecipeError
from recipes.machine.memory import module_bytes, stored_bytes
from recipes.models.chat_options import ChatRecord, read_options
from recipes.training_settings import DTYPES
from serving.client import FAST, INT8, LanguageModel
from serving.server.engine import JobError, WaitForModel
from serving.server.memory import ModelMemory, written_at

LoadKey = tuple[str, str, int]
SERVED_DTYPES = (*DTYPES, INT8, FAST)
WEIGHT_FILES = ("adapter_model.safetensors", "model.safetensors", "config.json")


@dataclass
class Variant:
    """A base with one of its adapters, or without one, and the chat format that it was trained with.

    `label` is the name of the adapter in PEFT, or an empty string for the base itself. `batches` is
    whether its rows can be in a batch, or None until that is checked (`batches.py`).
    """

    label: str
    chat: PolicyChat
    users: int = 0
    batches: bool | None = None


@dataclass
class Base:
    """A base model in memory. `network` is the causal language model, `peft` its wrapper.

    `dtype` is the number format of its answers: one of torch, or int8.
    """

    name: str
    network: Any
    tokenizer: Any
    dtype: str
    peft: Any = None
    variants: dict[tuple[str, int], Variant] = field(default_factory=dict)
    loaded: int = 0
    active: str | tuple[str, ...] | None = None
    """The label of the active adapter, or those of the rows of a batch. None if it is not known."""

    @property
    def nbytes(self) -> int:
        return module_bytes(self.peft or self.network)

    @property
    def readable(self) -> int | None:
        return readable_length(self.network.config)

    def switch_to(self, variant: Variant) -> None:
        """Let the network compute with the adapter of a variant, or without any adapter."""
        if self.peft is None or self.active == variant.label:
            return
        if isinstance(self.active, tuple):
            clear_row_adapters(self.peft)
        if variant.label:
            self.peft.base_model.enable_adapter_layers()
            self.peft.set_adapter(variant.label, inference_mode=True)
        else:
            self.peft.base_model.disable_adapter_layers()
        self.active = variant.label

    def forward(self, variant: Variant, ids: list[int], cache: DynamicCache) -> torch.Tensor:
        """Forward tokens of one answer. Return the logits of the next token, (1, V) float32."""
        self.switch_to(variant)
        tokens_1T = torch.tensor([ids], device=self.network.device)
        output = self.network(input_ids=tokens_1T, past_key_values=cache, use_cache=True)
        return output.logits[:, -1].float()

    def switch_rows_to(self, variants: Sequence[Variant]) -> None:
        """Let the network compute each row of a batch with the adapter of its variant.

        Rows of the same variant must be neighbours. Raises CannotBatch.
        """
        labels = tuple(variant.label for variant in variants)
        if self.peft is None or len(set(labels)) == 1:
            self.switch_to(variants[0])
        elif self.active != labels:
            self.switch_to(Variant("", variants[0].chat))
            self.active = labels
            set_row_adapters(self.peft, labels)

    def add(self, reference: str, adapter: str, limit: int) -> Variant:
        """Load an adapter, after removing the ones beyond `limit` that no stream uses.

        Raises RecipeError if it cannot be loaded, and WaitForModel if all adapters are in use.
        """
        if not adapter:
            options = read_options(reference, self.tokenizer)
            return Variant("", PolicyChat(self.tokenizer, self.network.generation_config, options))
        source = adapter if ChatRecord.read(adapter) else reference
        options = read_options(source, self.tokenizer)
        self._make_room(limit)
        if isinstance(self.active, tuple):
            clear_row_adapters(self.peft)
        self.loaded += 1
        label, before = f"adapter-{self.loaded}", self.peft
        try:
            self.peft = add_adapter(self.peft or self.network, adapter, label)
        except BaseException:
            self.active = None
            if before is not None:
                with suppress(Exception):
                    before.delete_adapter(label)
            raise
        if self.peft.peft_config[label].is_prompt_learning:
            self.peft.delete_adapter(label)
            raise RecipeError(f"{adapter} is not a LoRA adapter, so it cannot be served.")
        self.active = None
        chat = PolicyChat(self.tokenizer, self.network.generation_config, options)
        return Variant(label, chat)

    def _make_room(self, limit: int) -> None:
        adapters = [(key, v) for key, v in self.variants.items() if v.label]
        for key, variant in adapters[: max(0, len(adapters) - limit + 1)]:
            if variant.users:
                raise WaitForModel
            self.peft.delete_adapter(variant.label)
            del self.variants[key]


@dataclass
class Lease:
    """A base and one of its variants that a stream uses until `release`."""

    base: Base
    variant: Variant
    memory: ModelMemory
    key: LoadKey

    def release(self) -> None:
        self.variant.users -= 1
        self.memory.release(self.key)


def acquire(memory: ModelMemory, model: LanguageModel, adapters: int) -> Lease:
    """Return a model for a stream. It is loaded if necessary. At most `adapters` stay per base.

    Raises JobError if it cannot be loaded, and WaitForModel if other streams use the memory.
    """
    dtype = model.dtype or "auto"
    if dtype not in SERVED_DTYPES:
        raise JobError("INVALID_ARGUMENT", f"dtype must be one of {', '.join(SERVED_DTYPES)}.")
    if dtype == FAST:
        dtype = INT8 if has_fast_int8() else "auto"
    key = (model.base, dtype, weights_written_at(model.base))
    try:
        base = memory.acquire(
            key,
            lambda: load_base(model.base, dtype),
            name=f"The model {model.base}",
            size=stored_bytes(model.base),
        )
        try:
            variant = _variant(base, model, adapters)
        except BaseException:
            memory.release(key)
            raise
    except RecipeError as error:
        raise JobError("FAILED_PRECONDITION", str(error)) from None
    variant.users += 1
    return Lease(base, variant, memory, key)


def _variant(base: Base, model: LanguageModel, adapters: int) -> Variant:
    key = (model.adapter, weights_written_at(model.adapter))
    variant = base.variants.pop(key, None) or base.add(model.base, model.adapter, adapters)
    base.variants[key] = variant  # the last one was used most recently
    return variant


def load_base(reference: str, dtype: str) -> Base:
    """Return a base as generation and evaluation load it, unless `dtype` is int8. Raises RecipeError."""
    existing(reference)
    tokenizer = load_tokenizer(reference)
    network = load_model(reference, "bfloat16" if dtype == INT8 else dtype, dropout=False)
    check_vocabulary(network, tokenizer, reference)
    network.generation_config = GenerationConfig(
        eos_token_id=network.generation_config.eos_token_id
    )
    serve_linear_layers(network)
    rounded = dtype == INT8 and add_int8_weights(network)
    served = INT8 if rounded else str(network.dtype).removeprefix("torch.")
    return Base(reference, network.to(device()), tokenizer, served)


def weights_written_at(reference: str) -> int:
    """Return a number that changes if a folder gets other weights, or 0 for a name on a hub."""
    return written_at(*(Path(reference) / name for name in WEIGHT_FILES)) if reference else 0

"""Causal language models: loading them, and turning chats into tokens.

Generation and training both use `PolicyChat`, so a prompt has the same tokens in both.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from finetune.training.merged_weights import with_merged_weights
from recipes.errors import RecipeError
from recipes.models.loading import read_adapter, read_config, read_tokenizer, why_not_loaded
from recipes.models.references import split_reference, torch_dtype
from recipes.preferences.tokens import ChatFormat, plain_prompt

Messages = list[dict[str, str]]

PLAIN_NEXT_TURN = re.compile(r"\n+(?:User|System|Assistant):")
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


def existing(reference: str) -> tuple[str, str | None]:
    """Return name and revision for from_pretrained.

    Raises RecipeError for a folder that does not exist.
    """
    if reference.startswith(("/", ".", "~")) and not Path(reference).is_dir():
        raise RecipeError(f"The folder {reference} does not exist.")
    return split_reference(reference)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(reference: str) -> Any:
    """Return the tokenizer.

    Raises RecipeError if there is none, or if it has no end-of-text token.
    """
    name, revision = existing(reference)
    try:
        tokenizer = read_tokenizer(name, revision)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"The tokenizer of {reference} cannot be loaded: {why_not_loaded(error)}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise RecipeError(f"The tokenizer of {reference} has no token for the end of a text.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(reference: str, dtype: str, *, dropout: bool = True) -> Any:
    """Return the model in evaluation mode, on the CPU. Raises RecipeError if it cannot be loaded.

    `dropout=False` turns dropout off permanently, also in families that call it as a function,
    where it cannot be turned off after loading.
    """
    name, revision = existing(reference)
    try:
        config = read_config(name, revision)
        if not dropout:
            turn_off_dropout(config)
        return AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            config=config,
            dtype=torch_dtype(dtype),
            trust_remote_code=False,
            use_safetensors=True,
        ).eval()
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"The model {reference} cannot be loaded: {why_not_loaded(error)}"
        ) from error


def turn_off_dropout(config: Any) -> None:
    for part in (config, config.get_text_config()):
        for name, value in part.to_dict().items():
            if name.endswith(("dropout", "pdrop", "layerdrop")) and isinstance(value, float):
                setattr(part, name, 0.0)


def add_adapter(model: Any, reference: str) -> Any:
    """Return the model with an adapter. Raises RecipeError if the two do not fit together."""
    path, revision = existing(reference)
    try:
        return read_adapter(model, path, revision).eval()
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"The adapter {reference} cannot be loaded: {why_not_loaded(error)}"
        ) from error
    except RuntimeError as error:
        raise RecipeError(
            f"The adapter {reference} was made for another model than {model.name_or_path}: its "
            "weights have other shapes."
        ) from error


def load_for_sampling(reference: str, adapter: str | None, dtype: str) -> Any:
    """Return the model with its adapter on its device, without its published sampling defaults.

    In float32 the adapter is merged into the weights, which samples faster and changes only
    rounding. In bfloat16 merging would lose part of the adapter, so it stays separate.
    `generation_config` keeps the model's stop tokens but not its repetition penalty, top-k and so
    on: only the run's settings decide how to sample.
    """
    model = load_model(reference, dtype)
    if adapter:
        model = add_adapter(model, adapter)
        if torch_dtype(dtype) == torch.float32:
            model, _ = with_merged_weights(model)
    model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    return model.to(device())


def readable_length(config: Any) -> int | None:
    """Return the model's maximum input in tokens, or None if its positions are unlimited."""
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in CONTEXT_NAMES)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


class PolicyChat(ChatFormat):
    """Chats as a model that answers them reads them.

    `stop_ids` end a response: the model's, the tokenizer's, and the token that the chat template
    writes after an assistant's turn.
    """

    def __init__(self, tokenizer: Any, generation_config: Any = None):
        super().__init__(tokenizer)
        own = getattr(generation_config, "eos_token_id", None)
        ids = {tokenizer.eos_token_id, self._turn_end(), *(own if isinstance(own, list) else [own])}
        self.stop_ids = sorted(ids - {None})

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Return the prompt's tokens. Raises ValueError if the chat template refuses the chat."""
        templated = bool(self.tokenizer.chat_template)
        # A template writes the special tokens itself. Adding them again would double them silently.
        text = self._open(messages) if templated else plain_prompt(messages)
        return self.tokenizer(text, add_special_tokens=not templated)["input_ids"]

    def completion_ids(self, messages: Messages, response: str) -> list[int]:
        """Return the tokens of the response and its end token, to follow `prompt_ids`."""
        if self.tokenizer.chat_template:
            text = self._turn(messages, response)
        else:
            # Plain prompts end with a colon, and most vocabularies join a space to the next word.
            text = " " + response.strip()
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ends = [index for index, token in enumerate(ids) if token in self.stop_ids]
        # Many templates write a newline after the end token, which models never generate.
        return ids[: ends[-1] + 1] if ends else [*ids, self.tokenizer.eos_token_id]

    def response_text(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if not self.tokenizer.chat_template:
            text = PLAIN_NEXT_TURN.split(text, maxsplit=1)[0]
        return text.strip()

    def encode(
        self, prompt: Messages, responses: Sequence[str]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the token ids of the prompt, (P,), and of each response, (R_k,), all int32."""
        completions = [self.completion_ids(prompt, response) for response in responses]
        return (
            np.asarray(self.prompt_ids(prompt), dtype=np.int32),
            [np.asarray(ids, dtype=np.int32) for ids in completions],
        )

    def _open(self, messages: Messages) -> str:
        return self._apply(messages, add_generation_prompt=True)

    def _turn(self, messages: Messages, response: str) -> str:
        """Return what the template writes for this answer.

        Some templates render a finished turn differently.
        """
        opening, whole = self._open(messages), self._render(messages, response)
        return whole[len(opening) :] if whole.startswith(opening) else response

    def _turn_end(self) -> int | None:
        if not self.tokenizer.chat_template:
            return None
        try:
            after = self._turn([{"role": "user", "content": "a"}], "b").partition("b")[2]
        except ValueError:
            return None
        ids = self.tokenizer(after, add_special_tokens=False)["input_ids"]
        return ids[0] if ids and ids[0] in self.tokenizer.all_special_ids else None


def check_vocabulary(model: Any, tokenizer: Any, reference: str) -> None:
    """Raise RecipeError if the tokenizer has tokens without an embedding in the model."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise RecipeError(
            f"The tokenizer of {reference} has {len(tokenizer)} tokens and its model only {rows}: "
            "they do not fit together."
        )


def load_policy(reference: str, adapter: str | None, dtype: str) -> tuple[Any, PolicyChat]:
    """Return the model of `load_for_sampling` and its chat format. Raises RecipeError."""
    tokenizer = load_tokenizer(reference)
    model = load_for_sampling(reference, adapter, dtype)
    check_vocabulary(model, tokenizer, reference)
    return model, PolicyChat(tokenizer, model.generation_config)

"""Causal language models: loading them, and converting chats to tokens.

Generation and training both use `PolicyChat`, so a prompt has the same tokens in both.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from finetune.training.models.merged_weights import Predictions, with_merged_weights
from recipes.errors import RecipeError
from recipes.machine.memory import free_memory
from recipes.models.chat_format import (
    BOUNDARIES,
    CONTROL_TOKENS,
    CUT_OFF,
    REWRITTEN,
    SENTINELS,
    ChatFormat,
    Encoded,
    Messages,
    plain_prompt,
)
from recipes.models.chat_options import ChatOptions
from recipes.models.control_tokens import added_tokens_in
from recipes.models.head import keep_head_input_contiguous
from recipes.models.loading import (
    LOADING_ERRORS,
    read_adapter,
    read_config,
    read_tokenizer,
    why_not_loaded,
)
from recipes.models.references import split_reference, torch_dtype

PLAIN_NEXT_TURN = re.compile(r"\n+(?:User|System|Assistant):")
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


def existing(reference: str) -> tuple[str, str | None]:
    """Return the name and the revision for `from_pretrained`.

    Raises RecipeError for a folder that does not exist.
    """
    if reference.startswith(("/", ".", "~")) and not Path(reference).is_dir():
        raise RecipeError(f"The folder {reference} does not exist.")
    return split_reference(reference)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(reference: str) -> Any:
    """Return the tokenizer.

    Raises RecipeError if there is none, or if it has no token for the end of a text.
    """
    name, revision = existing(reference)
    try:
        tokenizer = read_tokenizer(name, revision)
    except LOADING_ERRORS as error:
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

    With `dropout=False`, the model has no dropout in training mode either. This is decided when the
    model is loaded, because some families call dropout as a function.
    """
    name, revision = existing(reference)
    try:
        config = read_config(name, revision)
        if not dropout:
            turn_off_dropout(config)
        model = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            config=config,
            dtype=torch_dtype(dtype),
            trust_remote_code=False,
            use_safetensors=True,
        ).eval()
    except LOADING_ERRORS as error:
        raise RecipeError(
            f"The model {reference} cannot be loaded: {why_not_loaded(error)}"
        ) from error
    keep_head_input_contiguous(model)
    return model


def read_stops(reference: str, config: Any) -> Any:
    """Return the generation config, which names the stop tokens, without loading the model."""
    name, revision = existing(reference)
    try:
        return GenerationConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError):
        return GenerationConfig.from_model_config(config)


def turn_off_dropout(config: Any) -> None:
    for part in (config, config.get_text_config()):
        for name, value in part.to_dict().items():
            if name.endswith(("dropout", "pdrop", "layerdrop")) and isinstance(value, float):
                setattr(part, name, 0.0)


def add_adapter(model: Any, reference: str, label: str = "default") -> Any:
    """Return the model with an adapter. Raises RecipeError if the two do not fit together."""
    path, revision = existing(reference)
    try:
        return read_adapter(model, path, revision, label=label).eval()
    except LOADING_ERRORS as error:
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

    The adapter is merged into the weights in their number format, which makes sampling faster. In float32,
    this changes only rounding. In bfloat16, it may round a small adapter away. So the predictions are
    compared, and if they differ by more than LARGEST_SHARE of the adapter's effect, the adapter stays
    separate. Then the model is a PeftModel, and was loaded twice.
    `generation_config` keeps the stop tokens of the model, but not its repetition penalty, top-k and
    so on, because only the settings of the run decide how to sample.
    """
    model = load_model(reference, dtype).to(device())
    if adapter:
        model = add_adapter(model, adapter)
        predictions = Predictions.of(model)
        model, _ = with_merged_weights(model)
        if not predictions.keep_adapter(model):
            del model
            free_memory()
            model = add_adapter(load_model(reference, dtype).to(device()), adapter)
    model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    return model


def adapter_state(model: Any, adapter: str | None) -> str | None:
    """Return whether the adapter of a model from `load_for_sampling` is merged or separate, for reports."""
    if not adapter:
        return None
    return "separate" if hasattr(model, "peft_config") else "merged"


def readable_length(config: Any) -> int | None:
    """Return the maximum number of tokens that the model can read, or None if there is no limit."""
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in CONTEXT_NAMES)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


@dataclass(frozen=True)
class Turn:
    """An answer as the chat template writes it: the text, and the text after it up to the end token."""

    text: str
    gap: str
    end_id: int
    rewritten: bool = False


class PolicyChat(ChatFormat):
    """The tokens of chats for a model that writes the answers.

    `stop_ids` are the tokens that end a response: those of the model, the end token of the tokenizer,
    and the token that the chat template writes after a turn of the assistant.
    """

    def __init__(
        self, tokenizer: Any, generation_config: Any = None, options: ChatOptions | None = None
    ):
        super().__init__(tokenizer, options)
        own = getattr(generation_config, "eos_token_id", None)
        self.end_id: int = self._turn_end() or tokenizer.eos_token_id
        ids = {tokenizer.eos_token_id, self.end_id, *(own if isinstance(own, list) else [own])}
        self.stop_ids = sorted(ids - {None})
        texts = tokenizer.convert_ids_to_tokens(self.stop_ids)
        stops = added_tokens_in(tokenizer, texts)
        self.stops = re.compile("|".join(map(re.escape, stops)) or "(?!)")
        self.control = self.control_tokens(stops)

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Return the tokens of the prompt. Raises ValueError as `read` does."""
        return self.read(messages, []).prompt.tolist()

    def read(
        self, prompt: Messages, responses: Sequence[str], cut_off: Sequence[bool] = ()
    ) -> Encoded:
        """Return the tokens of the prompt as it is served, and of each response as the model writes it.

        The last token of a response is its end token, unless `cut_off` says that a length limit cut
        it off. Raises ValueError if the chat template refuses the chat or
        leaves out one of its messages.
        """
        chat, unended = self.marked(prompt, responses), list(cut_off) or [False] * len(responses)
        opening = self._opening(chat.prompt)
        turns = [self._turn(chat.prompt, opening, response) for response in chat.responses]
        tails = [t.text if cut else t.text + t.gap for t, cut in zip(turns, unended, strict=True)]
        start, *wholes = self._ids([opening, *(opening + tail for tail in tails)], chat.mark)
        ends, joined = self._after(start, wholes, tails, chat.mark)
        rows = [
            ids if cut else [*ids, turn.end_id]
            for ids, turn, cut in zip(ends, turns, unended, strict=True)
        ]
        notes = {
            CONTROL_TOKENS: chat.count,
            BOUNDARIES: joined.count(False),
            CUT_OFF: sum(unended),
            REWRITTEN: sum(turn.rewritten for turn in turns),
        }
        return Encoded.of(start, rows, notes)

    def response_text(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if not self.template:
            text = PLAIN_NEXT_TURN.split(text, maxsplit=1)[0]
        return text.strip()

    def _opening(self, messages: Messages) -> str:
        """Return the text of the prompt with the beginning of the answer."""
        if not self.template:
            return plain_prompt(messages)
        text = self._apply(messages, opening=True)
        self.refuse_left_out(messages, text)
        return text

    def _turn(self, messages: Messages, opening: str, response: str) -> Turn:
        """Return the answer as the template writes it, if the template only adds whitespace.

        Otherwise, return the response itself. Templates make other changes for earlier turns, such as
        removing a thought, or add text that the model did not write, such as an empty thought. When
        the model is served, it writes the response without these changes. Raises ValueError if the
        template puts a control token before the response. The model would have to write it, but no
        reviewer has seen it.
        """
        if not self.template:
            # A plain prompt ends with a colon. In most vocabularies, a space belongs to the next word.
            return Turn(" " + response.strip(), "", self.end_id)
        whole = self._render(messages, response)
        turn = whole.removeprefix(opening) if whole.startswith(opening) else ""
        for body in (response, response.strip()):
            lead, match, tail = turn.partition(body) if body else ("", "", "")
            if match and (token := self.control.in_answers.search(lead)):
                raise ValueError(
                    f"the chat template puts the control token {token[0]} before a response"
                )
            if match and not lead.strip():
                stop = self.stops.search(tail)
                gap = tail[: stop.start()] if stop else ""
                return Turn(lead + body, gap, self._id_of(stop[0]) if stop else self.end_id)
        return Turn(response, "", self.end_id, rewritten=bool(response))

    def _turn_end(self) -> int | None:
        """Return the first control token that the template writes after an answer, or None if none."""
        if not self.template:
            return None
        user = [{"role": "user", "content": "a"}]
        try:
            opening, whole = self._apply(user, opening=True), self._render(user, SENTINELS[0])
        except ValueError:
            return None
        start = len(opening) if whole.startswith(opening) else 0
        token = self.control.in_answers.search(whole[start:].partition(SENTINELS[0])[2])
        return self._id_of(token[0]) if token else None

    def _id_of(self, token: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(token)


def check_vocabulary(model: Any, tokenizer: Any, reference: str) -> None:
    """Raise RecipeError if the tokenizer has tokens without an embedding in the model."""
    rows = model.get_input_embeddings().num_embeddings
    outside = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= rows)
    if not outside:
        return
    names = [token for _, token in outside]
    added = set(names) <= set(tokenizer.added_tokens_encoder)
    raise RecipeError(
        f"The tokenizer of {reference} has {len(names)} tokens outside the {rows} embeddings of its "
        f"model: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}. "
        + (
            "They were added to the tokenizer alone. Remove them, or enlarge the model's embedding "
            "and train it first."
            if added
            else "Tokenizer and model do not fit together."
        )
    )


def load_policy(
    reference: str, adapter: str | None, dtype: str, tokenizer: Any, options: ChatOptions
) -> tuple[Any, PolicyChat]:
    """Return the model of `load_for_sampling` and its chat format. Raises RecipeError."""
    model = load_for_sampling(reference, adapter, dtype)
    check_vocabulary(model, tokenizer, reference)
    return model, PolicyChat(tokenizer, model.generation_config, options)

"""Loading of models, tokenizers and adapters as data, never as code.

Recipes load them only with these functions. No code from the repository of a model runs
(`trust_remote_code=False`), and weights must be stored as safetensors, not as pickles. The attention
is set here, because the configuration of a model could name code to download. Chat templates have
limits (chat_template.py).
"""

import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import GatedRepoError
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from recipes.errors import RecipeError
from recipes.models import chat_template

LOADING_ERRORS = (OSError, ValueError, SafetensorError)
"""The errors of libraries about models, tokenizers and adapters that are missing or damaged."""

TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")


def read_config(name: str, revision: str | None, **options: Any) -> Any:
    """Return the configuration of a model, without its choice of attention.

    Raises OSError or ValueError.
    """
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False, **options)
    forget_attention(config)
    return config


def forget_attention(config: Any) -> None:
    """Clear the choice of attention, so that transformers uses SDPA where the family supports it."""
    for part in (config, *_parts_of(config)):
        part._attn_implementation = None


def _parts_of(config: Any) -> list[Any]:
    parts = (getattr(config, name, None) for name in getattr(config, "sub_configs", {}))
    return [part for part in parts if part is not None]


def read_tokenizer(name: str, revision: str | None) -> Any:
    """Return the tokenizer.

    Raises OSError or ValueError, and RecipeError for a chat template that exceeds the limits.
    """
    folder = Path(name)
    if folder.is_dir() and not any(any(folder.glob(files)) for files in TOKENIZER_FILES):
        raise ValueError(
            "it has no tokenizer.json. Copy the files of its tokenizer to this folder."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # a damaged file can cause any error
        raise ValueError(_damaged("its files", f"{type(error).__name__}: {error}")) from error
    try:
        chat_template.check(tokenizer.chat_template)
    except chat_template.TemplateTooCostly as error:
        raise RecipeError(f"The chat template of {name} {error}. Choose another model.") from None
    return tokenizer


def first_line(error: BaseException) -> str:
    """Return the first line of an error, which states the problem. Libraries add pages of advice."""
    return str(error).strip().partition("\n")[0]


def why_not_loaded(error: BaseException) -> str:
    """Return the reason why a model, tokenizer or adapter cannot be loaded, with advice about access.

    Libraries wrap the error of a download in other errors, so the whole chain of causes is examined.
    """
    reason = first_line(error)
    if isinstance(error, SafetensorError):
        reason = _damaged("a file of its weights", reason)
    step: BaseException | None = error
    while step is not None:
        status = getattr(getattr(step, "response", None), "status_code", None)
        if isinstance(step, GatedRepoError) or status in (401, 403):
            return f"{reason} {_access_advice()}"
        step = step.__cause__ or step.__context__
    return reason


def _damaged(files: str, detail: str) -> str:
    return f"{files} cannot be read ({detail}). Download or copy the model again."


def _access_advice() -> str:
    token = "is set" if os.environ.get("HF_TOKEN") else "is not set"
    return (
        "Hugging Face refused access. The model is gated or private, or does not exist. Accept its "
        "conditions on its page, and set HF_TOKEN, on the machine of the worker, to a token of the "
        f"same account (HF_TOKEN {token}). See docs/base-models.md."
    )


def read_adapter(
    model: Any,
    name: str | Path,
    revision: str | None = None,
    *,
    trainable: bool = False,
    label: str = "default",
) -> Any:
    """Return the model with the adapter, frozen unless `trainable`.

    A model that already has adapters keeps them, and gets another one with the name `label`. Raises
    RecipeError for pickled weights.
    """
    folder = Path(name)
    if folder.is_dir() and not (folder / "adapter_model.safetensors").is_file():
        raise RecipeError(
            f"The adapter {folder} has no adapter_model.safetensors. Save it as safetensors; "
            "pickled weights are not read."
        )
    if isinstance(model, PeftModel):
        model.load_adapter(
            name, label, revision=revision, use_safetensors=True, is_trainable=trainable
        )
        return model
    return PeftModel.from_pretrained(
        model, name, label, revision=revision, use_safetensors=True, is_trainable=trainable
    )

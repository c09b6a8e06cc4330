"""The only way in which recipes read what a model's publisher wrote: as data, never as code.

No code of the model's repository runs (`trust_remote_code=False`), weights are safetensors and not
pickles, the attention is chosen here and not by the model's configuration, which could name code to
download, and a chat template has limits (chat_template.py).
"""

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer

from recipes.errors import RecipeError
from recipes.models import chat_template


def read_config(name: str, revision: str | None, **options: Any) -> Any:
    """Return the configuration with nothing said about attention. Raises OSError, ValueError."""
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False, **options)
    forget_attention(config)
    return config


def forget_attention(config: Any) -> None:
    """transformers then takes SDPA where the family has it, as without any word in the file."""
    for part in (config, *_parts_of(config)):
        part._attn_implementation = None


def _parts_of(config: Any) -> list[Any]:
    parts = (getattr(config, name, None) for name in getattr(config, "sub_configs", {}))
    return [part for part in parts if part is not None]


def read_tokenizer(name: str, revision: str | None) -> Any:
    """Raises OSError, ValueError, and RecipeError for a chat template that exceeds its limits."""
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    try:
        chat_template.check(tokenizer.chat_template)
    except chat_template.TemplateTooCostly as error:
        raise RecipeError(f"The chat template of {name} {error}. Choose another model.") from None
    return tokenizer


def read_adapter(model: Any, name: str | Path, revision: str | None = None) -> Any:
    """Return the model with the adapter on it. Raises RecipeError for weights in a pickle."""
    folder = Path(name)
    if folder.is_dir() and not (folder / "adapter_model.safetensors").is_file():
        raise RecipeError(
            f"The adapter {folder} has no adapter_model.safetensors. Save it as safetensors; "
            "pickled weights are not read."
        )
    return PeftModel.from_pretrained(model, name, revision=revision, use_safetensors=True)

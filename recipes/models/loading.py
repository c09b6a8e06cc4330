"""Loading of models, tokenizers and adapters as data, never as code.

Recipes load them only through here.

No code of a model's repository runs (`trust_remote_code=False`), and weights must be safetensors,
not pickles. The attention is set here, because a model's configuration could name code to
download. Chat templates have limits (chat_template.py).
"""

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer

from recipes.errors import RecipeError
from recipes.models import chat_template


def read_config(name: str, revision: str | None, **options: Any) -> Any:
    """Return the configuration without its choice of attention. Raises OSError or ValueError."""
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
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    try:
        chat_template.check(tokenizer.chat_template)
    except chat_template.TemplateTooCostly as error:
        raise RecipeError(f"The chat template of {name} {error}. Choose another model.") from None
    return tokenizer


def read_adapter(model: Any, name: str | Path, revision: str | None = None) -> Any:
    """Return the model with the adapter. Raises RecipeError for pickled weights."""
    folder = Path(name)
    if folder.is_dir() and not (folder / "adapter_model.safetensors").is_file():
        raise RecipeError(
            f"The adapter {folder} has no adapter_model.safetensors. Save it as safetensors; "
            "pickled weights are not read."
        )
    return PeftModel.from_pretrained(model, name, revision=revision, use_safetensors=True)

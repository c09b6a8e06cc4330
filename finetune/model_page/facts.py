"""The facts about a model that its files and its run tell, without loading it."""

import json
import struct
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from django.template.defaultfilters import filesizeformat

from finetune.methods.method import all_methods
from finetune.models import WEIGHTS_FILE, Model
from reward.references import config_of, folder_of
from runs import storage

MOST_HEADER_BYTES = 50_000_000
"""The length of a safetensors header that is still read."""

Facts = list[tuple[str, str]]


def facts_of(model: Model) -> Facts:
    """Return labels and texts. Facts that the files do not tell are left out. Costs no query.

    Reads config.json and the headers of the files of weights.
    """
    if model.endpoint:
        return [("Endpoint", model.endpoint), ("Name on the endpoint", model.base)]
    for value in filter(None, (model.base, model.adapter)):
        storage.fetch_file(value, "config.json", "tokenizer_config.json")
    config, folder = config_of(model.base_folder) or {}, folder_of(model.base_folder)
    rows = [
        ("Architecture", _architecture(config)),
        ("Parameters", _parameters(folder)),
        ("Context length", _context_length(config)),
        ("Number format", str(config.get("dtype") or config.get("torch_dtype") or "")),
        ("Fine-tuned with", _method(model)),
        ("Adapter", _adapter(model)),
        ("Chat template", _template(Path(model.adapter_folder) if model.adapter else folder)),
    ]
    return [(label, text) for label, text in rows if text]


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else config.get("model_type")
    layers = _number(config, "num_hidden_layers", "n_layer")
    return f"{name or ''}" + (f", {layers} layers" if layers else "")


def _context_length(config: dict[str, Any]) -> str:
    count = _number(config, "max_position_embeddings", "n_positions", "seq_length")
    return f"{count:,} tokens" if count else ""


def _number(config: dict[str, Any], *names: str) -> int | None:
    """Return the first of several settings. Multimodal models have them in `text_config`."""
    inner = config.get("text_config")
    for source in (config, inner if isinstance(inner, dict) else {}):
        for name in names:
            if isinstance(value := source.get(name), int):
                return value
    return None


def _parameters(folder: Path | None) -> str:
    count = parameters_in(folder.glob("*.safetensors")) if folder else 0
    return large_number(count) if count else ""


def parameters_in(files: Iterable[Path]) -> int:
    """Return the number of parameters in safetensors files, from their headers."""
    return sum(map(_parameters_in, files))


def _parameters_in(file: Path) -> int:
    """Return the number of parameters in a safetensors file, 0 if the header is not readable."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MOST_HEADER_BYTES:
                return 0
            header = json.loads(stream.read(length))
        return sum(prod(each["shape"]) for name, each in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return 0


def large_number(count: int) -> str:
    """Return a number with at most three significant digits, such as "135 million"."""
    for size, unit in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,}"


def _method(model: Model) -> str:
    if model.run is None or not model.adapter:
        return ""
    titles = {method.name: method.title for method in all_methods()}
    config = model.run.config
    parts = [titles.get(model.run.kind, model.run.kind)]
    if isinstance(rate := config.get("learning_rate"), int | float):
        parts.append(f"learning rate {rate:g}")
    if isinstance(epochs := config.get("epochs"), int | float):
        parts.append(f"{epochs:g} epoch{'' if epochs == 1 else 's'}")
    return ", ".join(parts)


def _adapter(model: Model) -> str:
    if not model.adapter:
        return ""
    file = Path(model.adapter_folder) / WEIGHTS_FILE
    try:
        size = filesizeformat(file.stat().st_size)
    except OSError:
        return "The file of weights is missing."
    config = model.run.config if model.run else {}
    rank = f"rank {config['lora_r']}, " if isinstance(config.get("lora_r"), int) else ""
    return f"{rank}{large_number(parameters_in([file]))} parameters, {size}"


def _template(folder: Path | None) -> str:
    if folder is None:
        return ""
    return "yes" if has_chat_template(folder) else "no; chats are written as plain text"


def has_chat_template(folder: Path) -> bool:
    """Return whether the tokenizer in the folder has a chat template."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        return "chat_template" in json.loads((folder / "tokenizer_config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def missing_files(model: Model) -> str:
    """Return a sentence if the folder of the model does not exist, "" otherwise."""
    value = model.adapter or model.base
    if model.endpoint or not storage.is_folder(value):
        return ""
    folder = Path(storage.resolve(value))
    return "" if folder.is_dir() else f"The folder {folder} is missing."

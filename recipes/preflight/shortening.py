"""Copies of models with fewer layers, for rehearsals.

All layers of a decoder or encoder take about the same memory and time, so that two rehearsals with
different numbers of layers give the memory and the time of one layer. The copy has the weights of the
first layers, the same embeddings, the same head and the same number format as the model.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import save_file

from recipes.errors import RecipeError
from recipes.models.references import split_reference

DEPTH_NAMES = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""The names of the number of layers in the configurations of transformers."""
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
"""The number of the layer in the name of a weight."""
NEEDED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
WEIGHTS_INDEX = ".safetensors.index.json"


def local_folder(reference: str) -> Path:
    """Return the folder of a model or adapter, which is downloaded if it is a name on a hub.

    Raises RecipeError if there are no safetensors.
    """
    name, revision = split_reference(reference)
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=list(NEEDED_FILES))
            )
        except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            raise RecipeError(f"The model {reference} cannot be loaded: {error}") from error
    if not any(folder.glob("*.safetensors")):
        raise RecipeError(f"The folder {folder} has no weights in the format safetensors.")
    return folder


def number_of_layers(folder: Path) -> int | None:
    """Return the number of layers of a model, or None if its configuration does not name it."""
    values = json.loads((folder / "config.json").read_text())
    return _depth(values) or _depth(values.get("text_config") or {})


def shorten(source: Path, target: Path, layers: int, *, of: int) -> None:
    """Write a copy of a model or adapter with its first `layers` layers `of` all to `target`."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        copied = file.is_file() and file.suffix != ".safetensors"
        if copied and file.name != "config.json" and not file.name.endswith(WEIGHTS_INDEX):
            shutil.copyfile(file, target / file.name)
    if (source / "config.json").is_file():
        values = json.loads((source / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(_shortened(values, layers, of)))
    name = "adapter_model" if (source / "adapter_config.json").is_file() else "model"
    weights = {}
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 - safe_open is not a dict
                number = LAYER.search(key)
                if number is None or int(number[1]) < layers:
                    weights[key] = stored.get_tensor(key)
    save_file(weights, target / f"{name}.safetensors", metadata={"format": "pt"})


def _depth(values: dict[str, Any]) -> int | None:
    return next((values[name] for name in DEPTH_NAMES if isinstance(values.get(name), int)), None)


def _shortened(values: dict[str, Any], layers: int, of: int) -> dict[str, Any]:
    """Return the configuration with fewer layers, also in lists with an entry per layer."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if name in DEPTH_NAMES and value == of:
            result[name] = layers
        elif name == "text_config" and isinstance(value, dict):
            result[name] = _shortened(value, layers, of)
        elif isinstance(value, list) and len(value) == of:
            result[name] = value[:layers]
        else:
            result[name] = value
    return result

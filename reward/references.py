"""Names of models as people write them: `repo`, `repo@revision` or a folder."""

import json
import os
import re
from pathlib import Path
from typing import Any

from runs import storage

REPO = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", re.ASCII)


class ReferenceProblem(Exception):  # noqa: N818
    """No model can be meant by this; the text says why and what would do."""


def looks_like_folder(reference: str) -> bool:
    return reference.startswith(("/", "./", "../", "~")) or Path(reference).is_dir()


def checked_reference(reference: str) -> str:
    """Return the reference in its stored form: see `runs.storage`. Raises ReferenceProblem.

    Reads a folder's config.json. A hub name is checked for its shape alone: this machine may have
    no internet where the one that trains has.
    """
    reference = storage.resolve(reference.strip())
    if looks_like_folder(reference):
        return storage.stored(_checked_folder(Path(reference).expanduser().absolute()))
    if not REPO.fullmatch(reference) or ".." in reference or "--" in reference:
        raise ReferenceProblem(
            f"{reference!r} is neither a folder nor a name such as org/name or org/name@revision."
        )
    return reference


def _checked_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise ReferenceProblem(f"There is no folder {folder}.")
    if (folder / "adapter_config.json").exists():
        raise ReferenceProblem(
            f"{folder} holds an adapter. Add its base here; adapters come from runs."
        )
    config = folder / "config.json"
    if not config.is_file():
        raise ReferenceProblem(
            f"{folder} has no config.json, so it is not a Hugging Face model. It should hold what "
            "save_pretrained writes: config.json, the weights and a tokenizer."
        )
    try:
        known = isinstance(json.loads(config.read_text()).get("model_type"), str)
    except (OSError, ValueError, AttributeError):
        known = False
    if not known:
        raise ReferenceProblem(f"{config} names no model_type, so no library can load it.")
    return folder


def config_of(reference: str) -> dict[str, Any] | None:
    """Return the config.json of a model, or None where this machine has no copy of it.

    A hub name is looked up in the local cache only: nothing is downloaded.
    """
    folder = Path(reference) if looks_like_folder(reference) else _cached_folder(reference)
    try:
        config = json.loads((folder / "config.json").read_text()) if folder else None
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def _cached_folder(reference: str) -> Path | None:
    """Return the newest snapshot of a hub name in the cache of huggingface_hub."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    repo = reference.partition("@")[0].replace("/", "--")
    snapshots = (cache / f"models--{repo}" / "snapshots").glob("*/config.json")
    return max((path.parent for path in snapshots), key=lambda p: p.stat().st_mtime, default=None)


def short_name(reference: str) -> str:
    return re.split(r"[@]", reference)[0].rstrip("/").rsplit("/", 1)[-1] or reference

"""References to models: `repo`, `repo@revision` or a folder."""

import json
import os
import re
from pathlib import Path
from typing import Any

from runs import storage

REPO = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", re.ASCII)


class ReferenceProblem(Exception):  # noqa: N818
    """An invalid reference. The text contains the reason and a remedy."""


def looks_like_folder(reference: str) -> bool:
    return reference.startswith(("/", "./", "../", "~")) or Path(reference).is_dir()


def checked_reference(reference: str) -> str:
    """Return the reference in the form in which `runs.storage` stores it. Raises ReferenceProblem.

    If the reference is a folder, its config.json is read. Only the form of a hub name is checked,
    because this machine may be offline even if the machine that trains is not.
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
            f"{folder} is an adapter. Add its base instead; adapters are created by runs."
        )
    config = folder / "config.json"
    if not config.is_file():
        raise ReferenceProblem(
            f"{folder} has no config.json, so it is not a Hugging Face model. It needs the "
            "files written by save_pretrained: config.json, the weights and a tokenizer."
        )
    try:
        has_type = isinstance(json.loads(config.read_text()).get("model_type"), str)
    except (OSError, ValueError, AttributeError):
        has_type = False
    if not has_type:
        raise ReferenceProblem(f"{config} has no model_type, so it cannot be loaded.")
    return folder


def config_of(reference: str) -> dict[str, Any] | None:
    """Return the config.json of a model, or None if this machine has no copy of it.

    A hub name is only looked up in the local cache. Nothing is downloaded.
    """
    folder = folder_of(reference)
    try:
        config = json.loads((folder / "config.json").read_text()) if folder else None
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def folder_of(reference: str) -> Path | None:
    """Return the folder of a model, or that of a hub name in the local cache, if there is one."""
    return Path(reference) if looks_like_folder(reference) else _cached_folder(reference)


def _cached_folder(reference: str) -> Path | None:
    """Return the newest snapshot of a hub name in the cache of huggingface_hub."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    repo = reference.partition("@")[0].replace("/", "--")
    snapshots = (cache / f"models--{repo}" / "snapshots").glob("*/config.json")
    return max((path.parent for path in snapshots), key=lambda p: p.stat().st_mtime, default=None)


def short_name(reference: str) -> str:
    return re.split(r"[@]", reference)[0].rstrip("/").rsplit("/", 1)[-1] or reference

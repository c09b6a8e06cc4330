"""The loading of promoted adapters on a vLLM server, through its own API.

https://docs.vllm.ai/en/latest/features/lora.html describes it. The name of an adapter on the server is
the slug of its project, so a promotion replaces the adapter behind the name and clients need no change.
The server must see the adapter in the same folder as Tiebreak. It forgets its adapters when it restarts,
so `is_lost` asks for them periodically.
"""

import json
from pathlib import Path
from typing import Any

from django.conf import settings

from buckets import files
from finetune.models import Certificate, Model
from finetune.release.services import JsonClient, NotDelivered
from recipes.training_settings import CHAT_KWARGS
from runs import storage


def is_configured() -> bool:
    return bool(settings.VLLM.url)


def connect() -> JsonClient:
    return JsonClient("vLLM", settings.VLLM.url, settings.VLLM.headers)


def load(certificate: Certificate) -> dict[str, Any]:
    """Load the adapter under its name, check that the server lists it, and return its names.

    A base model needs no adapter, so an adapter of the project is unloaded. Raises NotDelivered.
    """
    model, name = certificate.model, certificate.project.slug
    if model.adapter:
        files.fetch_quietly(model.adapter_folder)
    with connect() as server:
        rows = listed(server)
        base = base_in(rows, model)
        loaded = rows.get(name)
        if name in (base["id"], *bases_of(rows)):
            raise NotDelivered(
                f"vLLM serves its base model as {name}, which is the name of the project's adapter. Start "
                "it with another --served-model-name."
            )
        if not model.adapter:
            if loaded:
                server.post_text("/v1/unload_lora_adapter", lora_name=name)
            return {"name": base["id"], "base_name": base["id"]}
        options = template_options(Path(model.adapter_folder))
        if loaded is None or loaded.get("root") != model.adapter_folder:
            server.post_text(
                "/v1/load_lora_adapter",
                lora_name=name,
                lora_path=model.adapter_folder,
                load_inplace=loaded is not None,
            )
        check_loaded(listed(server), name, model.adapter_folder)
    return {"name": name, "base_name": base["id"], "template_options": options}


def template_options(folder: Path) -> dict[str, Any]:
    """Return the options of the chat template with which the adapter was trained.

    Raises NotDelivered if the record is damaged.
    """
    file = folder / "chat.json"
    try:
        options = json.loads(file.read_text())[CHAT_KWARGS]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError):
        raise NotDelivered(f"{file} is damaged. Restore it, or train again.") from None
    return options


def is_lost(certificate: Certificate) -> bool:
    """Return whether the server no longer has the adapter, or cannot be reached."""
    model = certificate.model
    try:
        with connect() as server:
            rows = listed(server)
            base_in(rows, model)
            if model.adapter:
                check_loaded(rows, certificate.project.slug, model.adapter_folder)
    except NotDelivered:
        return True
    return False


def listed(server: JsonClient) -> dict[str, dict[str, Any]]:
    """Return the entries of /v1/models by name. `root` is the folder, and adapters have a `parent`."""
    rows = server.get("/v1/models").get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
        raise NotDelivered(f"{server.host} does not list models as vLLM does.")
    return {str(row["id"]): row for row in rows}


def bases_of(rows: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, row in rows.items() if not row.get("parent")]


def base_in(rows: dict[str, dict[str, Any]], model: Model) -> dict[str, Any]:
    """Return the entry of the base model. Raises NotDelivered if the server has another base."""
    name = model.base_folder
    if not storage.is_folder(model.base):
        name, _, _ = name.partition("@")
    for base in bases_of(rows):
        if rows[base].get("root") == name:
            return rows[base]
    others = ", ".join(str(rows[base].get("root")) for base in bases_of(rows)) or "no model"
    raise NotDelivered(f"The base of the promoted model is {name}, but vLLM serves {others}.")


def check_loaded(rows: dict[str, dict[str, Any]], name: str, folder: str) -> None:
    root = rows.get(name, {}).get("root")
    if root != folder:
        raise NotDelivered(f"vLLM does not list {name} with the folder {folder}; it has {root}.")

"""The connection to a model hub with `huggingface_hub`, with its errors as sentences.

`HF_ENDPOINT` names the hub, and `HF_TOKEN` is the token. Tokens saved by `hf auth login` are not used,
so that a run uses only what its environment declares.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars
from safetensors import SafetensorError, safe_open

from recipes.errors import RecipeError
from recipes.hub_names import HubName
from recipes.training.checkpoints import sha256

WITHOUT_ACCESS = (
    "HF_TOKEN is not set where this run is executed. Create a token {access} access on the hub, set "
    "HF_TOKEN in the environment of the worker, and start the worker again."
)
MAX_REASON = 300
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def connect() -> HfApi:
    """Return the hub with the token of the environment, or without one."""
    disable_progress_bars()
    return HfApi(endpoint=endpoint(), token=token() or False)


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def token() -> str:
    return os.environ.get("HF_TOKEN", "").strip()


@contextmanager
def hub_errors(name: HubName) -> Iterator[None]:
    """Turn errors of the hub into RecipeError with a sentence."""
    try:
        yield
    except GatedRepoError:
        raise RecipeError(
            f"{name.repo} is gated. Accept its conditions on its page on the hub, with the account of "
            f"the token. {_about_token()}"
        ) from None
    except RepositoryNotFoundError:
        raise RecipeError(
            f"The hub {endpoint()} has no repository {name.repo}, or the token may not see it. "
            f"{_about_token()}"
        ) from None
    except RevisionNotFoundError:
        raise RecipeError(
            f"{name.repo} has no revision {name.revision!r}. Write the name of a branch or a tag, or a "
            "commit."
        ) from None
    except OfflineModeIsEnabled:
        raise RecipeError(
            "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the hub cannot be used."
        ) from None
    except HfHubHTTPError as error:
        raise RecipeError(_about_status(error, name)) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, ConnectionError, TimeoutError) as error:
        raise RecipeError(
            f"The hub {endpoint()} cannot be reached: {reason_of(error)}. Check the network of "
            "this machine, its proxy settings and HF_ENDPOINT."
        ) from None


def _about_token() -> str:
    if token():
        return "HF_TOKEN is set; check its account and its permissions."
    return "HF_TOKEN is not set where this run is executed."


def _about_status(error: HfHubHTTPError, name: HubName) -> str:
    status = error.response.status_code
    if status == 401:
        return f"The hub refused HF_TOKEN. Create a new token. {_about_token()}"
    if status == 403:
        return (
            f"The token may not do this with {name.repo}: {reason_of(error)}. It needs write access to "
            f"the repositories of {name.repo.partition('/')[0]}."
        )
    if status in (409, 412):
        return f"{name} was changed while it was pushed: {reason_of(error)}. Start the run again."
    if status == 429:
        return "The hub refuses more requests for now. Start the run again later."
    return f"The hub answered with status {status}: {reason_of(error)}."


def reason_of(error: BaseException) -> str:
    """Return the message of the server, or the first line of the error, without the token."""
    text = str(getattr(error, "server_message", None) or error) or type(error).__name__
    first = (text.strip().splitlines() or [type(error).__name__])[0]
    if token():
        first = first.replace(token(), "…")
    return first[:MAX_REASON].rstrip(".")


# --- files ---------------------------------------------------------------------------------------


def different(path: Path, sibling: Any) -> bool:
    """Return whether a file differs from the hash that the hub states for it.

    Files in large storage (LFS, Xet) have a SHA-256 hash, others the SHA-1 hash of a git blob.
    """
    size = path.stat().st_size
    if sibling.size is not None and sibling.size != size:
        return True
    if sibling.lfs is not None:
        return bool(sha256(path) != sibling.lfs.sha256)
    return bool(git_blob(path.read_bytes()) != sibling.blob_id)


def git_blob(data: bytes) -> str:
    """Return the id of a git blob, which is SHA-1 of a header and the content."""
    header = b"blob %d\0" % len(data)
    return hashlib.sha1(header + data, usedforsecurity=False).hexdigest()


def check_weights(folder: Path, weights: list[str]) -> None:
    """Raise RecipeError unless the files are safetensors that contain all weights of the index."""
    present: set[str] = set()
    for name in weights:
        try:
            with safe_open(folder / name, "np") as file:
                present.update(file.keys())
        except (SafetensorError, OSError) as error:
            raise RecipeError(f"{name} is not a valid safetensors file: {error}") from None
    if not present:
        raise RecipeError("The model has no weights in safetensors files.")
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    try:
        expected = set(json.loads(index.read_text())["weight_map"])
    except (ValueError, LookupError, TypeError):
        raise RecipeError(f"{index.name} is not a valid index of weights.") from None
    if missing := sorted(expected - present):
        raise RecipeError(f"{len(missing)} weights are missing, the first is {missing[0]}.")

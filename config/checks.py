"""System checks that find mistakes in a deployment. `manage.py check` runs them."""

import difflib
import os
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.urls import get_resolver

from accounts.sign_in.providers import ProviderProblem, read_providers, saml_installed
from buckets import files
from buckets.addresses import WrongAddress as WrongStorage
from buckets.bucket import StorageError
from config.env import VARIABLES
from finetune.endpoints import LOOPBACK as LOOPBACK_NAMES
from finetune.endpoints import EndpointProblem, is_url, read_endpoints
from serving.address import WrongAddress
from serving.server.memory import MIN_MEMORY_MB

DEPLOYMENT = "deployment"
"""The tag of checks that also run before commands which serve no pages."""
LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


@register(Tags.security)
def public_without_https(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    public = sorted(set(settings.ALLOWED_HOSTS) - LOOPBACK)
    if settings.HTTPS or not public:
        return []
    return [
        Warning(
            f"{', '.join(public)} is served without HTTPS: passwords and sessions can be read in transit.",
            hint="Put a TLS proxy in front and set TIEBREAK_HTTPS=1.",
            id="tiebreak.W001",
        )
    ]


@register(Tags.security)
def public_with_debug(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    if not settings.DEBUG or set(settings.ALLOWED_HOSTS) <= LOOPBACK:
        return []
    return [
        Error(
            "Debug pages, which show settings and data, would be served to the public.",
            hint="Unset TIEBREAK_DEBUG, or serve loopback only with TIEBREAK_ALLOWED_HOSTS.",
            id="tiebreak.E001",
        )
    ]


INTERNAL_VARIABLES = {
    "TIEBREAK_LOCAL_SERVICES",
    "TIEBREAK_PIN_ACCESS",
    "TIEBREAK_PIN_QUERIES",
    "TIEBREAK_PIN_RELEASE",
    "TIEBREAK_TEST_BROWSER",
    "TIEBREAK_TEST_CLUSTER",
}
"""Variables that Tiebreak's own processes and tests set."""


REPLACED_VARIABLES = {
    "TIEBREAK_MODEL_SERVER_BASES": "TIEBREAK_MODEL_SERVER_MEMORY_MB",
    "TIEBREAK_SCORER_AT_ONCE": "TIEBREAK_API_AT_ONCE",
    "TIEBREAK_SCORER_IDLE_SECONDS": "TIEBREAK_MODEL_SERVER_IDLE_SECONDS",
    "TIEBREAK_SCORER_MEMORY_MB": "TIEBREAK_MODEL_SERVER_MEMORY_MB",
    "TIEBREAK_SCORER_MODELS": "TIEBREAK_MODEL_SERVER_MEMORY_MB",
    "TIEBREAK_SCORER_SECONDS": "TIEBREAK_API_SCORE_SECONDS",
    "TIEBREAK_SCORER_SOCKET": "TIEBREAK_MODEL_SERVER",
    "TIEBREAK_SCORER_WAITING": "TIEBREAK_MODEL_SERVER_WAITING",
}
"""Variables of earlier versions, and the ones that replace them."""


@register(DEPLOYMENT)
def variables_known(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    names = VARIABLES.keys() | INTERNAL_VARIABLES
    warnings: list[CheckMessage] = []
    for name in sorted(name for name in os.environ if name.startswith("TIEBREAK_")):
        if name not in names:
            warnings.append(
                Warning(
                    f"{name} is set, but nothing reads it.",
                    hint=_hint_for(name, names),
                    id="tiebreak.W002",
                )
            )
    return warnings


def _hint_for(name: str, names: Collection[str]) -> str:
    if name in REPLACED_VARIABLES:
        return f"{REPLACED_VARIABLES[name]} replaces it. CHANGELOG.md describes the change."
    near = difflib.get_close_matches(name, names, 1, 0.8)
    return f"Did you mean {near[0]}?" if near else "docs/settings.md lists them."


@register(DEPLOYMENT)
def model_server_memory(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    megabytes = settings.MODEL_SERVER_MEMORY_MB
    if megabytes == 0 or megabytes >= MIN_MEMORY_MB:
        return []
    return [
        Error(
            f"The model server cannot start with {megabytes} MB of memory.",
            hint=f"Set TIEBREAK_MODEL_SERVER_MEMORY_MB to 0 or to at least {MIN_MEMORY_MB}.",
            id="tiebreak.E005",
        )
    ]


@register(DEPLOYMENT)
def folders_writable(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    errors: list[CheckMessage] = []
    for variable, name in (
        ("TIEBREAK_VAR", "VAR_DIR"),
        ("TIEBREAK_RUNS_DIR", "RUNS_DIR"),
        ("TIEBREAK_SNAPSHOTS_DIR", "SNAPSHOTS_DIR"),
        ("TIEBREAK_UPLOADS_DIR", "UPLOADS_DIR"),
    ):
        folder = getattr(settings, name)
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(existing, os.W_OK):
            errors.append(
                Error(
                    f"{folder} cannot be written to: {existing} belongs to someone else.",
                    hint=f"Change its owner, or point {variable} elsewhere.",
                    id="tiebreak.E002",
                )
            )
    return errors


@register(DEPLOYMENT, deploy=True)
def storage_answers(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Try to write, read, list and delete an object in the object store, with `check --deploy`."""
    if not files.is_remote():
        return []
    try:
        files.bucket().try_access()
    except (StorageError, WrongStorage) as problem:
        hint = "docs/storage.md describes TIEBREAK_STORAGE and the credentials of each provider."
        return [Error(str(problem), hint=hint, id="tiebreak.E011")]
    return []


@register(DEPLOYMENT)
def prefix_is_no_page(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Paths are served with and without the prefix, so it must not be the beginning of a page's path."""
    first = settings.PATH_PREFIX.strip("/").split("/")[0]
    if not first:
        return []  # without importing all pages, which workers do not need
    pages = {str(pattern.pattern).split("/")[0] for pattern in get_resolver().url_patterns}
    if first not in pages | {"p", "live", "models", "chats", "snapshots"}:
        return []
    return [
        Error(
            f"TIEBREAK_PATH_PREFIX is {settings.PATH_PREFIX}, but Tiebreak has pages below /{first}/.",
            hint="Choose another path, such as /tiebreak.",
            id="tiebreak.E010",
        )
    ]


@register(DEPLOYMENT)
def mlflow_valid(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    uri = settings.MLFLOW_TRACKING_URI
    if not uri:
        return []
    if not is_url(uri):
        hint = "Start `mlflow server` and set its address, or unset the variable."
        from finetune.release.mlflow import WRONG_URI

        return [Error(WRONG_URI, hint=hint, id="tiebreak.E004")]
    secret = settings.MLFLOW_TRACKING_TOKEN or settings.MLFLOW_TRACKING_PASSWORD
    if secret and urlsplit(uri).scheme == "http" and urlsplit(uri).hostname not in LOOPBACK_NAMES:
        return [
            Warning(
                "The token or password for MLflow is sent without encryption.",
                hint="Set an https:// address, or one of a server on this machine.",
                id="tiebreak.W004",
            )
        ]
    return []


@register(DEPLOYMENT)
def providers_valid(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    try:
        providers = read_providers(settings.PROVIDERS)
    except ProviderProblem as problem:
        hint = "docs/sign-in.md describes the file. Until it is valid, no provider can be used."
        return [Error(str(problem), hint=hint, id="tiebreak.E007")]
    messages: list[CheckMessage] = []
    if not saml_installed() and any(p.kind == "saml" for p in providers.values()):
        hint = "Install the extra saml. docs/sign-in.md describes how."
        messages.append(
            Error("A provider uses SAML, which is not installed.", hint=hint, id="tiebreak.E008")
        )
    if not settings.PASSWORDS and not providers:
        messages.append(
            Warning(
                "Passwords are turned off, but there is no identity provider.",
                hint="Declare one (docs/sign-in.md), or unset TIEBREAK_PASSWORDS.",
                id="tiebreak.W006",
            )
        )
    return messages


@register(DEPLOYMENT)
def vllm_not_public(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    try:
        settings.VLLM.check()
    except WrongAddress as problem:
        hint = "Serve vLLM on this machine or in an internal network. docs/vllm.md describes it."
        return [Error(str(problem), hint=hint, id="tiebreak.E006")]
    if (
        settings.VLLM.key
        and urlsplit(settings.VLLM.url).scheme == "http"
        and not settings.VLLM.is_local
    ):
        return [
            Warning(
                "The key and the chats for vLLM are sent without encryption.",
                hint="Use a network that nobody else can read, or put a proxy with TLS in front.",
                id="tiebreak.W005",
            )
        ]
    return []


@register(DEPLOYMENT)
def endpoints_valid(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    try:
        endpoints = read_endpoints(settings.ENDPOINTS)
    except EndpointProblem as problem:
        hint = "docs/endpoints.md describes the file. Until it is valid, no endpoint can be used."
        return [Error(str(problem), hint=hint, id="tiebreak.E003")]
    return [
        Warning(
            f"The key of the endpoint {endpoint.name} is sent without encryption.",
            hint="Declare an https:// address, or a server on this machine.",
            id="tiebreak.W003",
        )
        for endpoint in endpoints.values()
        if endpoint.sends_key_in_clear
    ]

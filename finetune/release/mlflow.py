"""The registration of promoted models in the MLflow Model Registry, over its REST API.

https://mlflow.org/docs/latest/api_reference/rest-api.html describes the API. A project has one registered
model, and each promotion becomes a version of it with the alias `champion`. The registry gets facts and
the origin of the model, but no files. The tag with the hash of the certificate makes a repeated
registration find its version instead of creating another one.
"""

from typing import Any

import httpx2
from django.conf import settings

from finetune.endpoints import is_url
from finetune.models import Certificate, Model
from finetune.release.facts import hub_reference
from finetune.release.services import JsonClient, NotDelivered, Refused
from formatting.numbers import percent

API = "/api/2.0/mlflow"
ALIAS = "champion"
CERTIFICATE = "tiebreak.certificate"
WRONG_URI = (
    "MLFLOW_TRACKING_URI must be the http or https address of an MLflow server, without a user name. Other "
    "stores have no REST API."
)


def is_configured() -> bool:
    return bool(settings.MLFLOW_TRACKING_URI)


def register(certificate: Certificate) -> dict[str, Any]:
    """Register the model as a version with the alias, and return its name, version and page.

    Raises NotDelivered.
    """
    name = registered_name(certificate)
    with connect() as registry:
        try:
            registry.post(
                f"{API}/registered-models/create",
                name=name,
                description=f"Promoted models of the project {certificate.project} in Tiebreak.",
                tags=as_tags({"tiebreak.project": certificate.project.slug}),
            )
        except Refused as refusal:
            if refusal.code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = version_of(registry, name, certificate) or create_version(
            registry, name, certificate
        )
        registry.post(f"{API}/registered-models/alias", name=name, alias=ALIAS, version=version)
    url = f"{settings.MLFLOW_TRACKING_URI}/#/models/{name}/versions/{version}"
    return {"name": name, "version": version, "url": url}


def registered_name(certificate: Certificate) -> str:
    return f"tiebreak-{certificate.project.slug}"


def connect() -> JsonClient:
    """Return a client with the token of the environment, or with its user name and password."""
    uri, token = settings.MLFLOW_TRACKING_URI, settings.MLFLOW_TRACKING_TOKEN
    if not is_url(uri):
        raise NotDelivered(WRONG_URI)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    user, password = settings.MLFLOW_TRACKING_USERNAME, settings.MLFLOW_TRACKING_PASSWORD
    auth = httpx2.BasicAuth(user, password) if user and not token else None
    return JsonClient("MLflow", uri, headers, auth)


def version_of(registry: JsonClient, name: str, certificate: Certificate) -> str:
    """Return the version with the certificate's hash, or ""."""
    answer = registry.get(
        f"{API}/model-versions/search",
        filter=f"name='{name}' and tags.`{CERTIFICATE}`='{certificate.sha256}'",
        max_results=1,
    )
    rows = answer.get("model_versions") or []
    return number_of(rows[0]) if rows else ""


def create_version(registry: JsonClient, name: str, certificate: Certificate) -> str:
    answer = registry.post(
        f"{API}/model-versions/create",
        name=name,
        source=source_of(certificate.model),
        description=f"{certificate.model}, promoted on {certificate.issued_at:%Y-%m-%d} with {certificate}.",
        tags=as_tags(tags_of(certificate)),
    )
    return number_of(answer.get("model_version"))


def number_of(version: Any) -> str:
    if not isinstance(version, dict) or not version.get("version"):
        raise NotDelivered("MLflow's answer has no model version. Is the address that of MLflow?")
    return str(version["version"])


def source_of(model: Model) -> str:
    """Return the origin of the model: its commit on a hub, or its number in this installation.

    MLflow refuses http addresses and folders as a source.
    """
    if reference := hub_reference(model):
        return f"hf://{reference}"
    return f"tiebreak:/{model.project.slug}/models/{model.pk}"


def tags_of(certificate: Certificate) -> dict[str, Any]:
    """Return the facts about a promotion. Those that are unknown are left out.

    The evaluation is the newest one at the time of the promotion.
    """
    model = certificate.model
    evaluations = model.finished_evaluations().filter(created_at__lte=certificate.issued_at)
    newest = evaluations.select_related("baseline", "project").order_by("-id").first()
    low, high = (newest and newest.interval) or (None, None)
    facts = {
        "project": certificate.project.slug,
        "model": model.pk,
        "kind": model.kind,
        "run": model.run_id,
        "base": model.base,
        "snapshot": model.snapshot and model.snapshot.content_hash,
        "certificate": certificate.sha256,
        "certificate_number": certificate.number,
        "baseline": newest and str(newest.baseline),
        "win_rate": newest and (newest.report.get("win_rate") or {}).get("value"),
        "win_rate_interval": None if low is None else f"{percent(low)} to {percent(high)}",
        "conclusion": newest and newest.conclusions(),
    }
    return {f"tiebreak.{name}": value for name, value in facts.items() if value is not None}


def as_tags(values: dict[str, Any]) -> list[dict[str, str]]:
    return [{"key": name, "value": str(value)} for name, value in values.items()]

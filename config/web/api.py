"""The API at /api/v1/, with its routers, errors and OpenAPI document. It has no browsable pages."""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from accounts.api import READ, Problem
from accounts.models import Token
from api import (
    evaluations,
    guidelines,
    models,
    projects,
    rankings,
    runs,
    snapshots,
    tasks,
    webhooks,
)
from api.limits import TOO_LARGE, limited
from config.web.faults import storage_fault
from config.web.outage import is_outage, state, unavailable
from reward.scoring.api import router as scores

log = logging.getLogger("tiebreak.api")

api = NinjaAPI(
    title="Tiebreak",
    version="1",
    description="Projects, tasks, rankings, runs, models and scores. docs/api.md explains it.",
    docs_url=None,
    urls_namespace="api",
    auth=READ,
)
for router in (
    *(m.router for m in (projects, guidelines, tasks, rankings, runs, snapshots, models)),
    evaluations.router,
    webhooks.router,
    scores,
):
    api.add_router("", router)

ERRORS_LISTED = 10
STORAGE = "The server's storage is full or unusable. Ask the operator; the log names the folder."
PARAMETER_NAMES = {"body", "conversations", "candidates", "one", "many"}
"""Internal names in the locations of errors. They are removed, because they mean nothing to clients."""


@api.exception_handler(Problem)
def problem(request: HttpRequest, error: Problem) -> HttpResponseBase:
    return error.response()


@api.exception_handler(AuthenticationError)
def not_authenticated(request: HttpRequest, error: AuthenticationError) -> HttpResponseBase:
    sent = request.headers.get("Authorization")
    reason = "The token is not valid." if sent else "The request has none."
    return Problem(401, f"Send a token: Authorization: Bearer KEY. {reason}").response()


@api.exception_handler(ValidationError)
def invalid_request(request: HttpRequest, error: ValidationError) -> HttpResponseBase:
    errors = [{"at": _field(e["loc"]), "what": e["msg"]} for e in error.errors[:ERRORS_LISTED]]
    first = f"{errors[0]['at']}: {errors[0]['what']}." if errors else ""
    return Problem(422, f"The request is not valid. {first}", errors=errors).response()


def _field(location: tuple[Any, ...]) -> str:
    """Return the path of a field in the body of the request, such as "items.0.prompt"."""
    return ".".join(str(part) for part in location if part not in PARAMETER_NAMES) or "body"


@api.exception_handler(RequestDataTooBig)
def request_too_large(request: HttpRequest, error: RequestDataTooBig) -> HttpResponseBase:
    return Problem(413, TOO_LARGE).response()


@api.exception_handler(HttpError)
def http_error(request: HttpRequest, error: HttpError) -> HttpResponseBase:
    detail = "The request's body is not valid JSON." if error.status_code == 400 else f"{error}."
    return Problem(error.status_code, detail).response()


@api.exception_handler(Http404)
def unknown_address(request: HttpRequest, error: Http404) -> HttpResponseBase:
    """Explain a missing row, or an address that does not exist."""
    detail = str(error) or "The API has no such address."
    if detail.endswith("matches the given query."):
        detail = "There is no such row, or the owner of the token may not see it."
    return Problem(404, detail).response()


@api.exception_handler(PermissionDenied)
def forbidden(request: HttpRequest, error: PermissionDenied) -> HttpResponseBase:
    return Problem(403, str(error) or "The owner of the token may not do this.").response()


@api.exception_handler(Exception)
def internal_error(request: HttpRequest, error: Exception) -> HttpResponseBase:
    if is_outage(error):
        state.note_outage(error)
        return unavailable(request)
    if fault := storage_fault(request, error):
        status, sentence = fault
        token = getattr(request, "auth", None)
        leads = isinstance(token, Token) and token.user.can_lead
        return Problem(status, sentence if leads else STORAGE).response()
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return Problem(500, "The server failed. Its log has the reason.").response()


# --- addresses -----------------------------------------------------------------------------------


@csrf_exempt
def not_found(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    return unknown_address(request, Http404())


def _urls() -> tuple[list[Any], str, str]:
    all_patterns, app_name, namespace = api.urls
    patterns: list[Any] = [*all_patterns[:-1]]  # the last one is ninja's page at the root
    for pattern in patterns:
        pattern.callback = limited(pattern.callback)
    anywhere = [path("", not_found, name="api-root"), path("<path:rest>", not_found)]
    return [*patterns, *anywhere], app_name, namespace


urls = _urls()

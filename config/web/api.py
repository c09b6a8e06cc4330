"""The API at /api/v1/: its parts, its errors, and its OpenAPI document. No page comes with it."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from accounts.api import BearerToken, Problem
from accounts.models import Token
from config.web.faults import storage_fault
from config.web.outage import is_outage, state, unavailable
from reward.scoring.api import router as scores

log = logging.getLogger("tiebreak.api")

api = NinjaAPI(
    title="Tiebreak",
    version="1",
    description="Scores of the promoted reward model. docs/api.md explains it.",
    docs_url=None,
    urls_namespace="api",
    auth=BearerToken(),
)
api.add_router("", scores)

WRONG_TOLD = 10
STORAGE = "The server's storage is full or unusable; its log says which folder. Tell the operator."
OURS = {"body", "asked", "one", "many"}


@api.exception_handler(Problem)
def problem(request: HttpRequest, error: Problem) -> HttpResponseBase:
    return error.response()


@api.exception_handler(AuthenticationError)
def stranger(request: HttpRequest, error: AuthenticationError) -> HttpResponseBase:
    sent = "The token is not valid." if request.headers.get("Authorization") else "There is none."
    return Problem(401, f"Send a token: Authorization: Bearer KEY. {sent}").response()


@api.exception_handler(ValidationError)
def invalid(request: HttpRequest, error: ValidationError) -> HttpResponseBase:
    told = [{"at": _place(e["loc"]), "what": e["msg"]} for e in error.errors[:WRONG_TOLD]]
    first = f"{told[0]['at']}: {told[0]['what']}." if told else ""
    return Problem(422, f"The request is not as it must be. {first}", errors=told).response()


def _place(location: tuple[Any, ...]) -> str:
    """Where in the request, without the names that only the code has."""
    return ".".join(str(part) for part in location if part not in OURS) or "body"


@api.exception_handler(RequestDataTooBig)
def too_big(request: HttpRequest, error: RequestDataTooBig) -> HttpResponseBase:
    return Problem(413, "The request is larger than 2.5 MB. Send it in several.").response()


@api.exception_handler(HttpError)
def refused(request: HttpRequest, error: HttpError) -> HttpResponseBase:
    detail = "The request's body is not valid JSON." if error.status_code == 400 else f"{error}."
    return Problem(error.status_code, detail).response()


@api.exception_handler(Http404)
def missing(request: HttpRequest, error: Http404) -> HttpResponseBase:
    return Problem(404, "There is nothing at this address.").response()


@api.exception_handler(Exception)
def broken(request: HttpRequest, error: Exception) -> HttpResponseBase:
    if is_outage(error):
        state.note_away(error)
        return unavailable(request)
    if fault := storage_fault(request, error):
        status, sentence = fault
        token = getattr(request, "auth", None)
        leads = isinstance(token, Token) and token.user.can_lead
        return Problem(status, sentence if leads else STORAGE).response()
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return Problem(500, "The server failed; its log says why.").response()


# --- addresses -----------------------------------------------------------------------------------


def with_problems(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """What ninja answers in plain text, answered as everything else is."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        answer = view(request, *args, **kwargs)
        if answer.status_code != 405:
            return answer
        said = Problem(405, f"Use {answer['Allow']} at this address.").response()
        said["Allow"] = answer["Allow"]
        return said

    return guarded


@csrf_exempt
def nothing_here(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    return missing(request, Http404())


def _urls() -> tuple[list[Any], str, str]:
    made, app_name, namespace = api.urls
    patterns: list[Any] = [*made[:-1]]  # without ninja's page at the root
    for pattern in patterns:
        pattern.callback = with_problems(pattern.callback)
    anywhere = [path("", nothing_here, name="api-root"), path("<path:rest>", nothing_here)]
    return [*patterns, *anywhere], app_name, namespace


urls = _urls()

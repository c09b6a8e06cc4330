"""What every request to the API passes: the token's limit of requests, and its idempotency key."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from django.http.request import UnreadablePostError
from django.http.response import HttpResponseBase

from accounts.api import Problem, identify
from accounts.models import Token
from api import idempotency

View = Callable[..., HttpResponseBase]

TOO_LARGE = "The request is larger than 2.5 MB. Split it into several."
CALCULATIONS = ("/score", "/best-of-n", "/graphql")
"""Addresses whose POST changes nothing. Their idempotency keys are ignored."""


def limited(view: View) -> View:
    """Wrap a view of the API with the limit of requests, idempotency keys and problem+json for 405."""

    @wraps(view)
    def limited_view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            token = identify(request)
        except Problem as problem:  # too many wrong tokens
            return problem.response()
        if token is None or token.is_expired:
            return _explained(view(request, *args, **kwargs))
        count = token.count_request()
        response = _counted(request, token, count, lambda: view(request, *args, **kwargs))
        return _with_rate(_explained(response), count)

    return limited_view


def _counted(
    request: HttpRequest, token: Token, count: int, view: Callable[[], HttpResponseBase]
) -> HttpResponseBase:
    limit = settings.API_REQUESTS_A_MINUTE
    if count > limit:
        text = f"The limit is {limit} requests per token and minute. Continue in the next minute."
        return Problem(429, text, retry_after=_seconds_left()).response()
    if request.method != "POST" or "Idempotency-Key" not in request.headers:
        return view()
    if request.path_info.endswith(CALCULATIONS):
        return view()
    try:
        return idempotency.answer(request, token, view)
    except Problem as problem:
        return problem.response()
    except RequestDataTooBig:
        return Problem(413, TOO_LARGE).response()
    except UnreadablePostError:
        return Problem(400, "The request's body could not be read. Send it again.").response()


def _with_rate(response: HttpResponseBase, count: int) -> HttpResponseBase:
    limit = settings.API_REQUESTS_A_MINUTE
    response["RateLimit-Limit"] = str(limit)
    response["RateLimit-Remaining"] = str(max(0, limit - count))
    response["RateLimit-Reset"] = str(_seconds_left())
    return response


def _seconds_left() -> int:
    """Return the seconds until the next minute begins, at least 1."""
    return 60 - int(time.time()) % 60


def _explained(response: HttpResponseBase) -> HttpResponseBase:
    """Return problem+json instead of ninja's plain text for a wrong method."""
    if response.status_code != 405:
        return response
    refusal = Problem(405, f"Use {response['Allow']} at this address.").response()
    refusal["Allow"] = response["Allow"]
    return refusal

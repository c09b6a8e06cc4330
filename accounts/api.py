"""Authentication and errors of the API.

A request must have a token in `Authorization: Bearer KEY`. Sessions are not accepted, so that pages on
other sites cannot act on behalf of a signed-in user. Errors are application/problem+json (RFC 9457).
"""

from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, JsonResponse
from ninja.security import HttpBearer

from accounts.models import Token


class Problem(Exception):  # noqa: N818
    """Raised to send an error response. `detail` is a sentence for the sender of the request."""

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None, **more: Any):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.more = more

    def response(self) -> JsonResponse:
        fields = {
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        answer = JsonResponse(
            {"type": "about:blank", **fields, **self.more},
            status=self.status,
            content_type="application/problem+json",
        )
        if self.retry_after is not None:
            answer["Retry-After"] = str(self.retry_after)
        if self.status == HTTPStatus.UNAUTHORIZED:
            answer["WWW-Authenticate"] = "Bearer"
        return answer


class BearerToken(HttpBearer):
    """Authentication by token. It sets `request.auth` to the Token, with its user loaded."""

    def authenticate(self, request: HttpRequest, token: str) -> Token | None:
        return Token.of_key(token.strip())


def token_of(request: HttpRequest) -> Token:
    """Return the request's token. Raises Problem if the request has none."""
    token = getattr(request, "auth", None)
    if not isinstance(token, Token):
        raise Problem(401, "Send a token: Authorization: Bearer KEY.")
    return token

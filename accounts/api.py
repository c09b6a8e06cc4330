"""What every part of the API shares: who calls it, and how it says no.

The caller is the owner of the token in `Authorization: Bearer KEY`. A session is not accepted, so a
page of another site cannot use one. An error is application/problem+json (RFC 9457).
"""

from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, JsonResponse
from ninja.security import HttpBearer

from accounts.models import Token


class Problem(Exception):  # noqa: N818
    """The request ends here; `detail` is a sentence for its sender."""

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None, **more: Any):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.more = more

    def response(self) -> JsonResponse:
        said = {
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        answer = JsonResponse(
            {"type": "about:blank", **said, **self.more},
            status=self.status,
            content_type="application/problem+json",
        )
        if self.retry_after is not None:
            answer["Retry-After"] = str(self.retry_after)
        if self.status == HTTPStatus.UNAUTHORIZED:
            answer["WWW-Authenticate"] = "Bearer"
        return answer


class BearerToken(HttpBearer):
    """Puts the Token, with its user, into `request.auth`."""

    def authenticate(self, request: HttpRequest, token: str) -> Token | None:
        return Token.of_key(token.strip())


def token_of(request: HttpRequest) -> Token:
    """The token that the request came with. Raises Problem for a stranger."""
    found = getattr(request, "auth", None)
    if not isinstance(found, Token):
        raise Problem(401, "Send a token: Authorization: Bearer KEY.")
    return found

"""Authentication and errors of the API.

A request must have a token in `Authorization: Bearer KEY`. Sessions are not accepted, so that pages on
other sites cannot act on behalf of a signed-in user. Errors are application/problem+json (RFC 9457).
"""

from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, JsonResponse
from ninja.security import HttpBearer

from accounts.models import Scope, Token
from accounts.sign_in import throttle


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


_UNREAD = object()


def identify(request: HttpRequest) -> Token | None:
    """Return the token in the request's header, also an expired one, or None.

    The token is read once per request. Costs one query, and once a minute a second one.
    """
    token = getattr(request, "api_token", _UNREAD)
    if token is _UNREAD:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        token = Token.of_key(key.strip(), expired=True) if scheme.lower() == "bearer" else None
        if token is None and key:
            _count_wrong_key(request)
        request.api_token = token  # type: ignore[attr-defined]
    return token if isinstance(token, Token) else None


def _count_wrong_key(request: HttpRequest) -> None:
    """Count a wrong key of the request's address. Raises Problem after too many."""
    try:
        with throttle.address_attempt(request, kind="token-address"):
            pass
    except throttle.Throttled as refusal:
        detail = f"Too many wrong tokens. Try again in {refusal.seconds} s."
        raise Problem(429, detail, retry_after=refusal.seconds) from None


class BearerToken(HttpBearer):
    """Authentication by a token that has a scope.

    It sets `request.auth` to the Token, and `request.user` to its owner, so that the same functions
    decide access for pages and for the API.
    """

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        self.scope = scope

    def __call__(self, request: HttpRequest) -> Token | None:
        token = identify(request)
        return token and self.authenticate(request, token)

    def authenticate(self, request: HttpRequest, token: Any) -> Token | None:
        """Return the token. Raises Problem if it has expired or lacks the scope."""
        if token.is_expired:
            raise Problem(
                401, f"This token expired on {token.expires_at:%Y-%m-%d}. Make a new one."
            )
        if self.scope not in token.scopes:
            scopes = ", ".join(token.scopes) or "none"
            raise Problem(
                403,
                f"This needs a token with the scope {self.scope}. The scopes of this token: {scopes}.",
            )
        request.user = token.user
        return token


READ, LABEL, TRAIN, ADMIN, INFERENCE = map(BearerToken, Scope)


def token_of(request: HttpRequest) -> Token:
    """Return the request's token. Raises Problem if the request has none."""
    token = getattr(request, "auth", None)
    if not isinstance(token, Token):
        raise Problem(401, "Send a token: Authorization: Bearer KEY.")
    return token

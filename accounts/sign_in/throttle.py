"""Limits on password guessing: attempts per account and per address, and concurrent password hashes.

One statement counts each attempt in PostgreSQL before the password is checked, so that concurrent
attempts in several processes are all counted. The count, the message and the time taken do not reveal
whether the account exists. A successful sign-in resets the account's count.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address, ip_network
from math import ceil
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.models import SignInAttempts

CODE = "throttled"
MAX_CONCURRENT_HASHES = 2
"""Maximum number of concurrent password hashes per process. Each keeps a CPU core busy for 0.1 s."""
WAIT_SECONDS = 2.0
_turns = threading.BoundedSemaphore(MAX_CONCURRENT_HASHES)


class Throttled(ValidationError):  # noqa: N818
    """Raised after too many attempts, before the password is checked. The message says when to retry."""

    def __init__(self, seconds: float):
        self.seconds = max(1, ceil(seconds))
        super().__init__(_message(self.seconds), code=CODE)


def _message(seconds: int) -> str:
    if seconds <= 60:
        return _("Too many attempts at the moment. Try again in a minute.")
    minutes = ceil(seconds / 60)
    text = ngettext(
        "Too many failed attempts. Try again in %(minutes)d minute.",
        "Too many failed attempts. Try again in %(minutes)d minutes.",
        minutes,
    )
    return text % {"minutes": minutes}


class Attempt:
    succeeded = False

    def succeed(self) -> None:
        self.succeeded = True


@contextmanager
def attempt(request: HttpRequest | None, account: str) -> Iterator[Attempt]:
    """Count an attempt, and let at most MAX_CONCURRENT_HASHES of these `with` blocks run at a time.

    The caller must call `succeed()` on the result if the password is right. Raises Throttled after too
    many attempts. Costs two queries, and two more after a success.
    """
    keys = {_key("account", account.strip().casefold()): settings.SIGN_IN_FAILURES}
    if address := network_of(client_address(request)):
        keys[_key("address", address)] = settings.SIGN_IN_FAILURES_BY_ADDRESS
    try:
        _count(keys)
        if not _turns.acquire(timeout=WAIT_SECONDS):
            raise Throttled(1)
    except Throttled as refusal:
        if request is not None:
            request.retry_after = refusal.seconds  # type: ignore[attr-defined]
        raise
    current = Attempt()
    try:
        yield current
    finally:
        _turns.release()
        if current.succeeded:
            _forget(*keys)


_COUNT = """
INSERT INTO accounts_signinattempts AS attempts (key, count, since) VALUES (%s, 1, now())
ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN attempts.since < now() - %s THEN 1 ELSE attempts.count + 1 END,
    since = CASE WHEN attempts.since < now() - %s THEN now() ELSE attempts.since END
RETURNING count, extract(epoch FROM since + %s - now())
"""


def _count(limits: dict[str, int]) -> None:
    """Count one attempt for each key. Raises Throttled if a key's count exceeds its limit."""
    window, wait = timedelta(minutes=settings.SIGN_IN_MINUTES), 0.0
    with connection.cursor() as cursor:
        for key, limit in sorted(limits.items()):
            parameters: list[Any] = [key, window, window, window]
            cursor.execute(_COUNT, parameters)
            count, seconds = cursor.fetchone()
            if count > limit:
                wait = max(wait, float(seconds))
    if wait:
        raise Throttled(wait)


def _forget(account: str, *addresses: str) -> None:
    """Reset the account's count, and subtract this attempt from the counts of the addresses."""
    SignInAttempts.objects.filter(key=account).delete()
    with connection.cursor() as cursor:
        for address in addresses:
            cursor.execute(
                "UPDATE accounts_signinattempts SET count = greatest(count - 1, 0) WHERE key = %s",
                [address],
            )


def forget_old() -> int:
    """Delete counts that are too old to matter, and return their number."""
    window = timedelta(minutes=settings.SIGN_IN_MINUTES)
    return SignInAttempts.objects.filter(since__lt=timezone.now() - window).delete()[0]


def _key(kind: str, value: str) -> str:
    """Return a digest of the value, so that a password typed as a username is not stored."""
    return hashlib.sha256(f"{kind}:{value}".encode(errors="surrogatepass")).hexdigest()


def client_address(request: HttpRequest | None) -> str:
    """Return the address from which the request came.

    Each proxy appends its client's address to X-Forwarded-For. Only the last TIEBREAK_PROXIES entries
    come from the operator's proxies; a client can forge the others.
    """
    if request is None:
        return ""
    if settings.PROXIES:
        hops = [hop.strip() for hop in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")]
        if len(hops) >= settings.PROXIES and hops[-settings.PROXIES]:
            return hops[-settings.PROXIES]
    return str(request.META.get("REMOTE_ADDR", ""))


def network_of(address: str) -> str:
    """Return an IPv4 address itself, the /64 network of an IPv6 address, or "" for other text."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    if parsed.version == 6:
        parsed = parsed.ipv4_mapped or ip_network((parsed, 64), strict=False).network_address
    return str(parsed)


def answer_429(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Make middleware that sets the status 429 if a form on the page raised Throttled."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response: Any = get_response(request)
        if seconds := getattr(request, "retry_after", 0):
            response.status_code = 429
            response["Retry-After"] = str(seconds)
        return response

    return middleware

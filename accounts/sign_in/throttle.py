"""Limits on guessing: attempts per account and per address, and concurrent password hashes.

A guess is an attempt with a password, a code of a second factor, a one-time link or an API token. One
statement counts each attempt in PostgreSQL before anything is checked, so that concurrent attempts in
several processes are all counted. The count, the message and the time taken do not reveal whether the
account exists. A complete sign-in resets the account's count; a right password before a second factor
only undoes its own attempt, so that it does not allow more guesses of the code.
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
    complete = True

    def succeed(self, *, complete: bool = True) -> None:
        """Note that the guess was right. Without `complete`, a second factor is still to be checked."""
        self.succeeded, self.complete = True, complete


@contextmanager
def attempt(request: HttpRequest | None, account: str) -> Iterator[Attempt]:
    """Count an attempt, and let at most MAX_CONCURRENT_HASHES of these `with` blocks run at a time.

    The caller must call `succeed()` on the result if the guess is right. Raises Throttled after too
    many attempts. Costs two queries, and two more after a success.
    """
    own = _key("account", account.strip().casefold())
    keys = {own: settings.SIGN_IN_FAILURES, **_address_key("address", request)}
    with _noting_refusal(request):
        _count(keys)
        if not _turns.acquire(timeout=WAIT_SECONDS):
            raise Throttled(1)
    current = Attempt()
    try:
        yield current
    finally:
        _turns.release()
        if current.succeeded:
            _undo(*keys)
            if current.complete:
                SignInAttempts.objects.filter(key=own).delete()


@contextmanager
def address_attempt(request: HttpRequest | None, kind: str = "address") -> Iterator[Attempt]:
    """Count an attempt of an address with a link or a token, which belongs to no known account.

    `kind` separates the counts of API tokens from those of people: a broken script does not keep its
    neighbours from signing in. Raises Throttled after too many attempts.
    """
    keys = _address_key(kind, request)
    with _noting_refusal(request):
        _count(keys)
    current = Attempt()
    try:
        yield current
    finally:
        if current.succeeded:
            _undo(*keys)


def use_once(kind: str, value: str) -> bool:
    """Return whether a value is used for the first time in SIGN_IN_MINUTES. One statement, so only one
    of two requests with the same value gets True.
    """
    try:
        _count({_key(kind, value): 1})
    except Throttled:
        return False
    return True


@contextmanager
def _noting_refusal(request: HttpRequest | None) -> Iterator[None]:
    """Make `answer_429` set the status of the response if the block raises Throttled."""
    try:
        yield
    except Throttled as refusal:
        if request is not None:
            request.retry_after = refusal.seconds  # type: ignore[attr-defined]
        raise


def _address_key(kind: str, request: HttpRequest | None) -> dict[str, int]:
    address = network_of(client_address(request))
    return {_key(kind, address): settings.SIGN_IN_FAILURES_BY_ADDRESS} if address else {}


# `recent` has the times of the newest attempts that were allowed, at most as many as a minute may have.
# An attempt is allowed if there are fewer, or if the oldest is more than a minute ago: so no 60 seconds
# have more attempts than the limit. The statement's own time is the last one exactly if it was allowed.
_COUNT = """
INSERT INTO accounts_signinattempts AS attempts (key, count, since, recent)
VALUES (%(key)s, 1, now(), ARRAY[statement_timestamp()])
ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN attempts.since < now() - %(window)s THEN 1 ELSE attempts.count + 1 END,
    since = CASE WHEN attempts.since < now() - %(window)s THEN now() ELSE attempts.since END,
    recent = CASE
        WHEN cardinality(attempts.recent) < %(a_minute)s
            THEN attempts.recent || statement_timestamp()
        WHEN attempts.recent[cardinality(attempts.recent) - %(a_minute)s + 1]
            < statement_timestamp() - interval '1 minute'
            THEN attempts.recent[cardinality(attempts.recent) - %(a_minute)s + 2 :]
                || statement_timestamp()
        ELSE attempts.recent
    END
RETURNING
    count,
    extract(epoch FROM since + %(window)s - now()),
    recent[cardinality(recent)] = statement_timestamp(),
    extract(epoch FROM recent[1] + interval '1 minute' - statement_timestamp())
"""


def _count(limits: dict[str, int]) -> None:
    """Count one attempt for each key. Raises Throttled if a key's count exceeds its limit."""
    window, wait = timedelta(minutes=settings.SIGN_IN_MINUTES), 0.0
    with connection.cursor() as cursor:
        for key, limit in sorted(limits.items()):
            a_minute = settings.SIGN_IN_TRIES_A_MINUTE
            values: dict[str, Any] = {"key": key, "window": window, "a_minute": a_minute}
            cursor.execute(_COUNT, values)
            count, seconds, allowed, seconds_to_next = cursor.fetchone()
            if count > limit:
                wait = max(wait, float(seconds))
            elif not allowed:
                wait = max(wait, float(seconds_to_next), 1.0)
    if wait:
        raise Throttled(wait)


def _undo(*keys: str) -> None:
    """Subtract one attempt from each count."""
    with connection.cursor() as cursor:
        for key in sorted(keys):
            cursor.execute(
                """
                UPDATE accounts_signinattempts SET
                    count = greatest(count - 1, 0),
                    recent = recent[: cardinality(recent) - 1]
                WHERE key = %s
                """,
                [key],
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

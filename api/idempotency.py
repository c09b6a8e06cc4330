"""Idempotency keys: a repeated request gets the answer of the first one, and has no second effect.

A request with the header `Idempotency-Key` runs in one transaction, which first inserts a row with the
key and, at its end, stores the answer in it. A concurrent request with the same key waits at this
insert, until the transaction of the first has ended. If the first one fails, its effects and its row
are rolled back, and the key is free again. So the row exists exactly if the effects do.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from psycopg.errors import LockNotAvailable

from accounts.api import Problem
from accounts.models import IdempotentRequest, Token

LONGEST_KEY = 255
WAIT = "5s"
"""How long a request waits for another one with the same key, as a value of PostgreSQL's lock_timeout."""
REPLAYED = "Idempotency-Replayed"
STORED_HEADERS = ("Content-Type", "Location")


def answer(
    request: HttpRequest, token: Token, view: Callable[[], HttpResponseBase]
) -> HttpResponseBase:
    """Return the stored answer to the request's key, or call the view and store its answer.

    Raises Problem if the key was used for another request, or if that request is still in progress.
    Costs four statements more than the view alone.
    """
    key = request.headers["Idempotency-Key"]
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise Problem(400, f"An Idempotency-Key has 1 to {LONGEST_KEY} printable characters.")
    digest = _digest(request)
    with transaction.atomic():
        row = _inserted(token, key, digest)
        if row is None:
            return _replay(token, key, digest)
        response = view()
        if isinstance(response, HttpResponse) and response.status_code < 300:
            _store(row, response)
        else:
            transaction.set_rollback(True)
    return response


def _digest(request: HttpRequest) -> str:
    parts = [request.method or "", request.get_full_path(), request.content_type or ""]
    return hashlib.sha256("\n".join(parts).encode() + b"\n" + request.body).hexdigest()


def _inserted(token: Token, key: str, digest: str) -> int | None:
    """Insert the row of the key and return its id, or None if there is one already. Raises Problem."""
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [WAIT])
            cursor.execute(
                "INSERT INTO accounts_idempotentrequest"
                " (token_id, key, digest, headers, body, created_at)"
                " VALUES (%s, %s, %s, '{}', '', now())"
                " ON CONFLICT (token_id, key) DO NOTHING RETURNING id",
                [token.pk, key, digest],
            )
            row = cursor.fetchone()
            cursor.execute("SET LOCAL lock_timeout TO DEFAULT")
        except OperationalError as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            text = "A request with this Idempotency-Key is in progress. Repeat it later."
            raise Problem(409, text, retry_after=5) from None
    return row[0] if row else None


def _replay(token: Token, key: str, digest: str) -> HttpResponse:
    stored = IdempotentRequest.objects.get(token=token, key=key)
    if stored.digest != digest:
        text = "This Idempotency-Key was used for another request. Use a new key for each request."
        raise Problem(422, text)
    try:
        body = _cipher().decrypt(stored.body.encode())
    except InvalidToken:
        text = "The answer to this Idempotency-Key can no longer be read. Use a new key."
        raise Problem(409, text) from None
    response = HttpResponse(body, status=stored.status or 200)
    for name, value in stored.headers.items():
        response[name] = value
    response[REPLAYED] = "true"
    return response


def _store(row: int, response: HttpResponse) -> None:
    headers = {name: response[name] for name in STORED_HEADERS if response.has_header(name)}
    body = _cipher().encrypt(response.content).decode()
    IdempotentRequest.objects.filter(pk=row).update(
        status=response.status_code, headers=headers, body=body
    )


def _cipher() -> Fernet:
    """Return the cipher of stored answers, which can contain secrets, such as that of a webhook."""
    key = hmac.new(settings.SECRET_KEY.encode(), b"idempotency", hashlib.sha256).digest()
    return Fernet(base64.urlsafe_b64encode(key))

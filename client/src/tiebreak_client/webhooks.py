"""The signature of webhook requests, as https://www.standardwebhooks.com describes it."""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

TOLERANCE = 300
"""The largest age of a request in seconds. An older one could have been recorded and sent again."""


class InvalidSignature(Exception):  # noqa: N818
    """Raised for a request that was not signed with the secret, or that is too old."""


def verify(
    body: bytes, headers: Mapping[str, str], secret: str, *, now: float | None = None
) -> None:
    """Raise InvalidSignature unless the request is signed with the secret, and recent."""
    sent = {name.lower(): value for name, value in headers.items()}
    try:
        identifier, timestamp, signatures = (
            sent[f"webhook-{name}"] for name in ("id", "timestamp", "signature")
        )
        age = abs((time.time() if now is None else now) - int(timestamp))
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (KeyError, ValueError, binascii.Error):
        raise InvalidSignature("The request or the secret has no valid signature.") from None
    if age > TOLERANCE:
        raise InvalidSignature(f"The request is {age:.0f} seconds old.")
    content = b".".join([identifier.encode(), timestamp.encode(), body])
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    for signature in signatures.split():
        version, _, given = signature.partition(",")
        if version == "v1" and hmac.compare_digest(given.encode(), expected.encode()):
            return
    raise InvalidSignature("The signature does not match.")

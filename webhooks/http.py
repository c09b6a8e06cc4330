"""Signed POST requests to addresses that users have chosen.

Requests are signed as https://www.standardwebhooks.com describes: the header webhook-signature has the
HMAC-SHA256 of the id, the time and the body.
"""

import base64
import hashlib
import hmac
import socket
import ssl
import time
from urllib.parse import urlsplit

import httpx2

from webhooks.addresses import is_public

SECONDS = 10.0
MAX_REASON = 200


class NotSent(Exception):  # noqa: N818
    """Raised if a message could not be sent. The text is a sentence without secrets."""


def send(url: str, body: bytes, *, identifier: str, secret: str, private: bool) -> int:
    """Send a signed request, and return the status of the answer. Raises NotSent."""
    now = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Tiebreak",
        "webhook-id": identifier,
        "webhook-timestamp": now,
        "webhook-signature": signature(secret, identifier, now, body),
    }
    return post(url, body, headers, private=private)


def signature(secret: str, identifier: str, timestamp: str, body: bytes) -> str:
    """Return the value of the header webhook-signature. The key of a secret "whsec_…" is base64."""
    prefix, encoded = secret[:6], secret[6:]
    key = base64.b64decode(encoded) if prefix == "whsec_" else secret.encode()
    content = b".".join([identifier.encode(), timestamp.encode(), body])
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def post(url: str, body: bytes, headers: dict[str, str], *, private: bool) -> int:
    """Send a POST request and return the status. Redirects are not followed. Raises NotSent.

    The name of the host is looked up once, and the request goes to the address that was checked. So a
    name whose address changes cannot lead it into the private network. No proxy is used, because a
    proxy would look up the name again.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = checked_address(host, port, private=private)
    target = f"[{address}]" if ":" in address else address
    pinned = parts._replace(netloc=f"{target}:{port}").geturl()
    try:
        with (
            httpx2.Client(
                timeout=SECONDS, trust_env=False, verify=ssl.create_default_context()
            ) as client,
            client.stream(
                "POST",
                pinned,
                content=body,
                headers={**headers, "Host": parts.netloc},
                extensions={"sni_hostname": host},
            ) as response,
        ):
            return response.status_code
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise NotSent(f"The webhook at {host} cannot be reached: {short(error)}.") from None


def checked_address(host: str, port: int, *, private: bool) -> str:
    """Return an address of the host. Unless `private` is set, all its addresses must be public.

    Raises NotSent.
    """
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotSent(f"The name {host} of the webhook has no address: {short(error)}.") from None
    addresses = [str(row[4][0]).partition("%")[0] for row in rows]
    for address in addresses:
        if not private and not is_public(address):
            raise NotSent(
                f"{host} is the private address {address}. Set TIEBREAK_WEBHOOK_PRIVATE=1 to allow it."
            )
    return addresses[0]


def short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:MAX_REASON].rstrip(".")

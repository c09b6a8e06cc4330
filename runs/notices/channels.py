"""The channels of notices: e-mail to the person who started the run, and the webhook of the operator.

A webhook request is signed as https://www.standardwebhooks.com describes: the header webhook-signature
has the HMAC-SHA256 of the id, the time and the body.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2
from django.conf import settings
from django.core.mail import EmailMessage

from runs.models import Notice
from runs.notices.message import facts_of, subject_of, text_of

SECONDS = 10.0
MAX_REASON = 200
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotSent(Exception):  # noqa: N818
    """Raised if a notice could not be sent. The text is a sentence without secrets."""


@dataclass(frozen=True)
class Channel:
    """A way to send notices.

    `is_configured` returns whether the operator has configured it. `send` sends a notice, or does
    nothing if it has no recipient. It raises NotSent.
    """

    is_configured: Callable[[], bool]
    send: Callable[[Notice], None]


# --- e-mail ---------------------------------------------------------------------------------------


def send_email(notice: Notice) -> None:
    """Send the notice to the person who started the run, if the account has an address."""
    user = notice.run.created_by
    if user is None or not user.is_active or not user.email:
        return
    message = EmailMessage(
        subject_of(notice.run), text_of(notice.run), settings.EMAIL_FROM, [user.email]
    )
    try:
        message.send()
    except (OSError, smtplib.SMTPException) as error:
        raise NotSent(f"The mail server did not accept the message: {short(error)}.") from None


# --- the webhook ----------------------------------------------------------------------------------


def send_webhook(notice: Notice) -> None:
    body = json.dumps({"type": f"run.{notice.run.state}", "data": facts_of(notice.run)}).encode()
    identifier, now = f"notice-{notice.pk}", str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Tiebreak",
        "webhook-id": identifier,
        "webhook-timestamp": now,
        "webhook-signature": signature(settings.WEBHOOK_SECRET, identifier, now, body),
    }
    status = post(settings.WEBHOOK_URL, body, headers, private=settings.WEBHOOK_PRIVATE)
    if not 200 <= status < 300:
        raise NotSent(f"The webhook answered with status {status}.")


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


def is_public(text: str) -> bool:
    """Return whether an address belongs to the internet, also if it contains an IPv4 address."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if address.teredo or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast


def short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:MAX_REASON].rstrip(".")


CHANNELS = {
    Notice.Channel.EMAIL: Channel(lambda: bool(settings.EMAIL_URL), send_email),
    Notice.Channel.WEBHOOK: Channel(lambda: bool(settings.WEBHOOK_URL), send_webhook),
}

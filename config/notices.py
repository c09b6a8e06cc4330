"""The settings of notices about runs, checked when the site starts."""

import base64
import binascii
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from webhooks.addresses import problem_with

LEAST_SECRET = 24
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class MailServer:
    """A mail server. With `tls` the connection begins with TLS, with `starttls` it changes to TLS."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    starttls: bool
    tls: bool


def mail_server(url: str) -> MailServer:
    """Return the mail server for TIEBREAK_EMAIL_URL. Raises ImproperlyConfigured.

    Without TLS, only a server on this machine is accepted, because the password could be read in
    transit.
    """
    problem = (
        "TIEBREAK_EMAIL_URL must be smtp://USER:PASSWORD@HOST:PORT, or smtps:// for TLS from the start. "
        "Percent-encode special characters of the password."
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ImproperlyConfigured(problem) from None
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.path.strip("/"):
        raise ImproperlyConfigured(problem)
    tls = parts.scheme == "smtps"
    return MailServer(
        host=parts.hostname,
        port=port or (465 if tls else 587),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        starttls=not tls and parts.hostname not in LOOPBACK,
        tls=tls,
    )


def check_webhook(url: str, secret: str) -> None:
    """Raise ImproperlyConfigured unless the address and the secret of the webhook can be used."""
    if problem := problem_with(url):
        raise ImproperlyConfigured(f"TIEBREAK_WEBHOOK_URL {problem}")
    if len(secret) < LEAST_SECRET:
        raise ImproperlyConfigured(
            f"TIEBREAK_WEBHOOK_SECRET must have at least {LEAST_SECRET} characters, because it signs the "
            "requests. Make one with: openssl rand -hex 32"
        )
    if secret.startswith("whsec_"):
        try:
            base64.b64decode(secret[6:], validate=True)
        except binascii.Error:
            raise ImproperlyConfigured(
                "TIEBREAK_WEBHOOK_SECRET begins with whsec_, but the rest is not base64."
            ) from None

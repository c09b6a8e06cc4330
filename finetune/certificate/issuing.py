"""Signs certificates with the key of the installation."""

import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings

from finetune.certificate.__main__ import problems_of
from finetune.certificate.document import FORMAT, hashes_of, message_of


class CannotIssue(Exception):  # noqa: N818
    """The conclusion of a certificate does not follow from its content, so it was not issued."""


def public_key() -> str:
    """Return the public key of this installation in hexadecimal."""
    raw = _private_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return raw.hex()


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a content. Raises CannotIssue if it would not pass its own check."""
    hashes = hashes_of(content)
    certificate = {
        "format": FORMAT,
        "content": content,
        "sha256": hashes,
        "signature": {
            "algorithm": "Ed25519",
            "public_key": public_key(),
            "value": _private_key().sign(message_of(hashes)).hex(),
        },
    }
    if problems := problems_of(certificate):
        raise CannotIssue(
            f"The certificate of the promotion would not be valid, so nothing was promoted: "
            f"{' '.join(problems)}"
        )
    return certificate


def text_of(certificate: dict[str, Any]) -> str:
    """Return the text of the file. Each section starts on a line of its own."""
    return json.dumps(certificate, indent=1, ensure_ascii=False) + "\n"


def _private_key() -> Ed25519PrivateKey:
    """Return the key of the setting, or one derived from the secret key if the setting is empty."""
    if settings.CERTIFICATE_KEY:
        seed = bytes.fromhex(settings.CERTIFICATE_KEY)
    else:
        secret = settings.SECRET_KEY.encode()
        seed = hmac.new(secret, b"tiebreak certificates", hashlib.sha256).digest()
    return Ed25519PrivateKey.from_private_bytes(seed)

"""Encryption of small secrets in the database, with a key that comes from TIEBREAK_SECRET_KEY.

Somebody who has only the database, such as a backup of it, cannot read them.
"""

import base64
import hashlib

from cryptography.fernet import Fernet, MultiFernet
from django.conf import settings
from django.utils.encoding import force_bytes


def seal(text: str) -> str:
    return _box().encrypt(text.encode()).decode()


def open_sealed(sealed: str) -> str:
    """Return the text. Raises InvalidToken if it was sealed with another key or changed."""
    return _box().decrypt(sealed.encode()).decode()


def _box() -> MultiFernet:
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return MultiFernet([Fernet(_key(key)) for key in keys])


def _key(secret: str | bytes) -> bytes:
    digest = hashlib.sha256(b"tiebreak.sealing:" + force_bytes(secret)).digest()
    return base64.urlsafe_b64encode(digest)

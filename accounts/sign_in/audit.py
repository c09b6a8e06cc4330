"""Audit entries for sign-ins, sign-outs and failed attempts.

They use Django's authentication signals, because every way to sign in sends them.
"""

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.http import HttpRequest

from accounts.models import User, audit
from accounts.sign_in.throttle import client_address

MAX_NAME_LENGTH = 3
"""Only this many characters of an unknown username are stored, as it may be a password by mistake."""


def connect() -> None:
    user_logged_in.connect(record_sign_in, dispatch_uid="audit")
    user_logged_out.connect(record_sign_out, dispatch_uid="audit")
    user_login_failed.connect(record_failure, dispatch_uid="audit")


def record_sign_in(
    sender: Any, user: User, request: HttpRequest | None = None, **signal: Any
) -> None:
    audit(user, "signed in", user, address=client_address(request))


def record_sign_out(sender: Any, user: User | None, **signal: Any) -> None:
    if user is not None:
        audit(user, "signed out", user)


def record_failure(
    sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **signal: Any
) -> None:
    name = str(credentials.get("username") or "")
    user = User.objects.filter(username=name).first()
    subject = user or f"Unknown name {name[:MAX_NAME_LENGTH]}…"
    audit(None, "sign-in failed", subject, address=client_address(request))

"""Audit entries for sign-ins, sign-outs and failed attempts.

They use the signals of Django and django-allauth, because every way to sign in sends them.
"""

from typing import Any

from allauth.account.internal.flows.login import get_authentication_records
from allauth.mfa.models import Authenticator
from allauth.mfa.signals import (
    authentication_failed,
    authenticator_added,
    authenticator_removed,
    authenticator_reset,
)
from allauth.socialaccount.signals import social_account_added
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
    authenticator_added.connect(record_factor, dispatch_uid="audit")
    authenticator_removed.connect(record_removed_factor, dispatch_uid="audit")
    authenticator_reset.connect(record_new_codes, dispatch_uid="audit")
    authentication_failed.connect(record_wrong_code, dispatch_uid="audit")
    social_account_added.connect(record_connection, dispatch_uid="audit")


def record_sign_in(
    sender: Any, user: User, request: HttpRequest | None = None, **signal: Any
) -> None:
    audit(user, "signed in", user, address=client_address(request), **_way_in(request, user))


def _way_in(request: HttpRequest | None, user: User) -> dict[str, str]:
    """Return how the user signed in, where it was not by password alone."""
    way: dict[str, str] = {}
    for record in get_authentication_records(request, user) if request is not None else ():
        match record.get("method"):
            case "socialaccount":
                way["provider"] = record["provider"]
            case "mfa" if record.get("passwordless"):
                way["passkey"] = "yes"
            case "mfa" if "type" in record:
                way["second_factor"] = record["type"]
            case "link":
                way["link"] = "yes"
    return way


def record_factor(sender: Any, user: User, authenticator: Authenticator, **signal: Any) -> None:
    audit(user, "second factor added", user, type=authenticator.type)


def record_removed_factor(
    sender: Any, user: User, authenticator: Authenticator, **signal: Any
) -> None:
    audit(user, "second factor removed", user, type=authenticator.type)


def record_new_codes(sender: Any, user: User, authenticator: Authenticator, **signal: Any) -> None:
    audit(user, "recovery codes replaced", user)


def record_wrong_code(
    sender: Any, user: User, request: HttpRequest | None = None, **signal: Any
) -> None:
    audit(None, "sign-in failed", user, address=client_address(request), reason="wrong code")


def record_connection(sender: Any, sociallogin: Any, **signal: Any) -> None:
    account = sociallogin.account
    audit(account.user, "provider connected", account.user, provider=account.provider)


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

"""The second factor: codes of authenticator apps, recovery codes, and roles that need a second factor."""

from collections.abc import Callable
from typing import Any

from allauth.account.internal.flows.login import get_authentication_records
from allauth.core import context
from allauth.mfa.adapter import get_adapter
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.mfa.models import Authenticator
from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils.translation import gettext as _

from accounts.models import User, audit
from accounts.sign_in import throttle
from accounts.sign_in.providers import ADMINISTRATOR, offered

MAX_CODE_LENGTH = 20


class _Throttled:
    """A form that counts a wrong code as a failed attempt to sign in, and takes each code only once."""

    user: User
    cleaned_data: dict[str, Any]
    authenticator: Authenticator

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.fields["code"].max_length = MAX_CODE_LENGTH  # type: ignore[attr-defined]
        self.fields["code"].widget.attrs |= {  # type: ignore[attr-defined]
            "inputmode": "numeric", "autofocus": True, "maxlength": MAX_CODE_LENGTH, "placeholder": "",
        }  # fmt: skip

    def clean_code(self) -> str:
        with throttle.attempt(context.request, self.user.get_username()) as attempt:
            code: str = super().clean_code()  # type: ignore[misc]
            # allauth remembers used codes in the memory of the process, which is not enough for several.
            if not throttle.use_once("code", f"{self.user.pk}:{code.replace(' ', '')}"):
                raise get_adapter().validation_error("incorrect_code")
            attempt.succeed()
        return code


class CodeForm(_Throttled, AuthenticateForm):
    """The form for a code after a right password."""


class ConfirmCodeForm(_Throttled, ReauthenticateForm):
    """The form for a code before security settings are changed."""


def needs_second_factor(user: User) -> bool:
    """Return whether the user's role needs a second factor, by the setting TIEBREAK_SECOND_FACTOR."""
    role = ADMINISTRATOR if user.is_superuser else user.role
    return role in settings.SECOND_FACTOR_ROLES


def has_passed(request: HttpRequest, user: User) -> bool:
    """Return whether the user proved a second factor in this session. Costs no query."""
    trusted = {provider.name for provider in offered().values() if provider.second_factor}
    return any(
        record.get("method") == "mfa" or record.get("provider") in trusted
        for record in get_authentication_records(request, user)
    )


def is_missing(request: HttpRequest, user: User) -> bool:
    """Return whether the user's role needs a second factor that this session has not proved."""
    return needs_second_factor(user) and not has_passed(request, user)


ALLOWED = {
    "logout",
    "set_language",
    "words",
    "account_reauthenticate",
    "health",
    "ready",
    "metrics",
}
"""Pages that work without a required second factor, in addition to those for setting it up."""


def require_second_factor(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Make middleware that sends people whose role needs a second factor to the page to set it up."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return get_response(request)

    def process_view(
        request: HttpRequest, view: Any, args: Any, kwargs: Any
    ) -> HttpResponseBase | None:
        if not settings.SECOND_FACTOR_ROLES or not isinstance(request.user, User):
            return None
        name = (request.resolver_match.url_name if request.resolver_match else None) or ""
        if name in ALLOWED or name.startswith("mfa_"):
            return None
        if not is_missing(request, request.user):
            return None
        if request.method != "GET" or request.headers.get("HX-Request"):
            raise PermissionDenied(_("Your role needs a second factor. Load the page again."))
        if is_mfa_enabled(request.user):
            return redirect("mfa_reauthenticate")
        messages.warning(request, _("Your role needs a second factor. Set one up to continue."))
        return redirect("mfa_index")

    middleware.process_view = process_view  # type: ignore[attr-defined]
    return middleware


@transaction.atomic
def remove_all(*, person: User, by: User | None) -> int:
    """Remove all second factors of a person who lost them, and return their number.

    Writes an audit entry. The person sets up a new one after the next sign-in if their role needs it.
    """
    count, _rows = Authenticator.objects.filter(user=person).delete()
    if count:
        audit(by, "second factors removed", person)
    return count

"""Forms for passkeys. A malformed credential counts as a wrong passkey."""

from typing import Any

from allauth.mfa.adapter import get_adapter
from allauth.mfa.webauthn import forms
from django.core.exceptions import ValidationError
from django.db import DataError
from django.forms import HiddenInput
from django.utils.translation import gettext_lazy as _

from accounts.forms import StrictJSONField

MAX_NAME_LENGTH = 60
MAX_CREDENTIAL_LENGTH = 50_000


def _wrong() -> ValidationError:
    error: ValidationError = get_adapter().validation_error("incorrect_code")
    error.message = _("This passkey was not accepted. Try again.")
    return error


class _Careful:
    """Turn every error about a malformed credential into a form error."""

    data: Any

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.fields["credential"] = StrictJSONField(widget=HiddenInput)  # type: ignore[attr-defined]

    def clean_credential(self) -> Any:
        parent: Any = super()
        if len(str(self.data.get("credential", ""))) > MAX_CREDENTIAL_LENGTH:
            raise _wrong()
        try:
            return parent.clean_credential()
        except (ValidationError, *MALFORMED):
            raise _wrong() from None


MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    DataError,
    LookupError,
    TypeError,
    ValueError,
)


class AddForm(forms.AddWebAuthnForm):
    """The form that adds a passkey."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.fields["credential"] = StrictJSONField(widget=HiddenInput)
        self.fields["name"].max_length = MAX_NAME_LENGTH
        self.fields["name"].widget.attrs["maxlength"] = MAX_NAME_LENGTH
        self.fields["name"].label = _("Name")
        self.fields["name"].required = False
        self.fields["passwordless"].label = _("Sign in with it alone")
        self.fields["passwordless"].initial = True
        self.fields["passwordless"].help_text = _(
            "The device then asks for your fingerprint, face or PIN. Without this, the passkey is only "
            "a second factor after the password."
        )

    def clean_name(self) -> str:
        return super().clean_name().replace("\x00", "")[:MAX_NAME_LENGTH]

    def clean(self) -> dict[str, Any]:
        if len(str(self.data.get("credential", ""))) > MAX_CREDENTIAL_LENGTH:
            raise _wrong()
        try:
            return super().clean()
        except (ValidationError, *MALFORMED):
            raise _wrong() from None


class NameForm(forms.EditWebAuthnForm):
    """The form that renames a passkey."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.fields["name"].max_length = MAX_NAME_LENGTH
        self.fields["name"].label = _("Name")

    def clean_name(self) -> str:
        return str(self.cleaned_data["name"])[:MAX_NAME_LENGTH]


class SecondFactorForm(_Careful, forms.AuthenticateWebAuthnForm):
    """The form for a passkey after a right password."""


class SignInForm(_Careful, forms.LoginWebAuthnForm):
    """The form for a passkey instead of a password."""


class ConfirmForm(_Careful, forms.ReauthenticateWebAuthnForm):
    """The form for a passkey before security settings are changed."""

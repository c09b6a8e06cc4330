import json
from typing import Any

from django import forms
from django.contrib.auth.forms import PasswordChangeForm
from django.core.exceptions import ValidationError
from django.forms.fields import InvalidJSONInput
from django.http import HttpRequest

from accounts.sign_in import throttle


class ThrottledPasswordChange(PasswordChangeForm):
    """A form that counts a wrong old password as a failed attempt to sign in to the account."""

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.request = request

    def clean_old_password(self) -> str:
        with throttle.attempt(self.request, self.user.get_username()) as attempt:
            password = super().clean_old_password()
            attempt.succeed()
        return password


class StrictJSONField(forms.JSONField):
    """A JSON field that also refuses values which Python's parser or PostgreSQL cannot handle.

    Django catches only JSONDecodeError, but an integer with more than 4,300 digits or deep nesting raises
    another error. NaN, null characters and lone surrogates cannot be stored in the database.
    """

    def to_python(self, value: Any) -> Any:
        try:
            parsed = super().to_python(value)
            texts = [json.dumps(parsed, allow_nan=False), *_texts(parsed)]
            storable = all(text.encode() and "\0" not in text for text in texts if text)
        except (ValueError, RecursionError):
            storable, parsed = False, None
        if not storable:
            message = self.error_messages["invalid"]
            raise ValidationError(message, code="invalid", params={"value": value})
        return parsed

    def bound_data(self, data: Any, initial: Any) -> Any:
        try:
            self.to_python(data)
        except ValidationError:
            return InvalidJSONInput(data)  # the form shows it again exactly as it was typed
        return super().bound_data(data, initial)


def _texts(value: Any) -> list[str]:
    """Return every text in a parsed JSON value, including the keys of objects."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []

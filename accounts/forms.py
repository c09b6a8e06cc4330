from typing import Any

from django.contrib.auth.forms import PasswordChangeForm
from django.http import HttpRequest

from accounts import throttle


class ThrottledPasswordChange(PasswordChangeForm):
    """Counts wrong old passwords as failed sign-ins of the account."""

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.request = request

    def clean_old_password(self) -> str:
        with throttle.attempt(self.request, self.user.get_username()) as attempt:
            password = super().clean_old_password()
            attempt.succeed()
        return password

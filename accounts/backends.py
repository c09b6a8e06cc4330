from typing import Any

from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.http import HttpRequest

from accounts.models import User
from accounts.sign_in import throttle
from database.prepared import Prepared

_BY_ID = Prepared(lambda pk: User.objects.filter(pk=pk), pk=int)


class PasswordBackend(ModelBackend):
    """Django's backend, with limited sign-in attempts and with prepared SQL to load a request's user."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the user, or None for a wrong password. Raises Throttled after too many attempts.

        With passwords turned off, no password is right.
        """
        if not settings.PASSWORDS:
            return None
        name = username if username is not None else kwargs.get(User.USERNAME_FIELD)
        if name is None or password is None:
            return None
        with throttle.attempt(request, str(name)) as attempt:
            user = super().authenticate(request, name, password)
            if user is not None:
                attempt.succeed(complete=not is_mfa_enabled(user))
        return user

    def get_user(self, user_id: Any) -> User | None:
        user = _BY_ID.first(pk=user_id)
        return user if user is not None and self.user_can_authenticate(user) else None

from typing import Any

from django.contrib.auth.backends import ModelBackend

from accounts.models import User
from accounts.prepared import Prepared

_ONE = Prepared(lambda pk: User.objects.filter(pk=pk), pk=int)


class PasswordBackend(ModelBackend):
    """Django's own; each request asks who it is from, so that query's SQL is built once."""

    def get_user(self, user_id: Any) -> User | None:
        user = _ONE.first(pk=user_id)
        return user if user is not None and self.user_can_authenticate(user) else None

"""Access rules for views. Apart from these, only the first line of a view decides access."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.models import User

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def user_of(request: HttpRequest) -> User:
    """Return the signed-in user. Raises PermissionDenied for anonymous visitors."""
    if not isinstance(request.user, User):
        raise PermissionDenied("Sign in first.")
    return request.user


def restrict(rule: Callable[[User], bool], view: View[P], refusal: Promise) -> View[P]:
    """Restrict a view to the people for whom the rule holds. Others get a 403 with the refusal."""

    @wraps(view)
    def protected_view(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        if not rule(user_of(request)):
            raise PermissionDenied(refusal)
        return view(request, *args, **kwargs)

    return login_required(protected_view)


def lead_required(view: View[P]) -> View[P]:
    """Restrict a view to leads. Anonymous visitors are asked to sign in; reviewers get a 403."""
    return restrict(lambda user: user.can_lead, view, _("Only leads may see this page."))


def trainer_required(view: View[P]) -> View[P]:
    """Restrict a view to trainers. Anonymous visitors are asked to sign in; others get a 403."""
    return restrict(lambda user: user.can_train, view, _("Only trainers may see this page."))


def administrator_required(view: View[P]) -> View[P]:
    """Restrict a view to administrators. Anonymous visitors are asked to sign in; others get a 403."""
    return restrict(
        lambda user: user.is_active and user.is_superuser,
        view,
        _("Only administrators may see this page."),
    )

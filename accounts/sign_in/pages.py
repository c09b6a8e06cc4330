"""Pages on which people manage their second factors, passkeys and connected identity providers."""

from typing import Any

from allauth.account.internal.flows.login import record_authentication
from allauth.account.internal.flows.reauthentication import raise_if_reauthentication_required
from allauth.mfa.base.views import IndexView
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.views import ActivateTOTPView
from allauth.mfa.webauthn.views import AddWebAuthnView
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from accounts.access import administrator_required, user_of
from accounts.models import User, audit
from accounts.sign_in import second_factor
from accounts.sign_in.providers import offered


@method_decorator(never_cache, name="dispatch")
class Security(IndexView):
    """The page with a person's second factors and connected providers."""

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        user = user_of(self.request)
        providers = offered()
        accounts = list(SocialAccount.objects.filter(user=user).order_by("pk"))
        connected = {account.provider for account in accounts}
        return super().get_context_data(
            connected=[
                {"pk": account.pk, "title": providers[account.provider].title}
                for account in accounts
                if account.provider in providers
            ],
            connectable=[p for p in providers.values() if p.name not in connected],
            second_factor_needed=second_factor.needs_second_factor(user),
            **context,
        )


class _RecordsFactor:
    """A view that adds a second factor, which then counts as proved in this session."""

    request: HttpRequest

    def form_valid(self, form: Any) -> HttpResponse:
        response: HttpResponse = super().form_valid(form)  # type: ignore[misc]
        record_authentication(
            self.request, user_of(self.request), "mfa", added=True, reauthenticated=True
        )
        return response


@method_decorator([never_cache, login_required], name="dispatch")
class AddTOTP(_RecordsFactor, ActivateTOTPView):
    """The page that adds an authenticator app."""


@method_decorator([never_cache, login_required], name="dispatch")
class AddPasskey(_RecordsFactor, AddWebAuthnView):
    """The page that adds a passkey."""


@login_required
@require_POST
def disconnect_provider(request: HttpRequest, pk: int) -> HttpResponse:
    """Disconnect an identity provider from the user's own account, unless it is the only way to sign in."""
    user = user_of(request)
    account = get_object_or_404(SocialAccount, pk=pk, user=user)
    raise_if_reauthentication_required(request, app="allauth.socialaccount")
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if not _has_another_way_in(user, account):
            messages.error(request, _("This is your only way to sign in, so it is kept."))
            return redirect("mfa_index")
        SocialAccount.objects.filter(pk=account.pk).delete()
        audit(user, "provider disconnected", user, provider=account.provider)
    messages.success(request, _("The provider is disconnected."))
    return redirect("mfa_index")


def _has_another_way_in(user: User, account: SocialAccount) -> bool:
    if settings.PASSWORDS and user.has_usable_password():
        return True
    names = list(offered())
    others = SocialAccount.objects.filter(user=user, provider__in=names).exclude(pk=account.pk)
    passkeys = Authenticator.objects.filter(user=user, type=Authenticator.Type.WEBAUTHN)
    return others.exists() or any(passkey.wrap().is_passwordless for passkey in passkeys)


@administrator_required
@require_POST
def remove_second_factors(request: HttpRequest, user_id: int) -> HttpResponse:
    """Remove the second factors of a person who lost them."""
    person = get_object_or_404(User, pk=user_id)
    raise_if_reauthentication_required(request, app="allauth.mfa")
    if second_factor.remove_all(person=person, by=user_of(request)):
        messages.success(request, f"{person} has no second factor now.")
    else:
        messages.warning(request, f"{person} had no second factor.")
    return redirect("person", person.pk)

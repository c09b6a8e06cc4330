"""Our rules for django-allauth: who may sign in, through which provider, and to which account.

allauth calls these adapters. ProviderAdapter has the rules for identity providers; config.sign_in adds
the memberships of projects, which this layer does not know.
"""

from typing import Any, NoReturn

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.flows.login import get_authentication_records
from allauth.account.internal.flows.reauthentication import get_reauthentication_flows
from allauth.core import context
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialApp
from cryptography.fernet import InvalidToken
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext_lazy as _

from accounts.models import User, audit
from accounts.sign_in import claims as claims_
from accounts.sign_in import provisioning, sealing
from accounts.sign_in.providers import Provider, offered
from accounts.sign_in.throttle import client_address

RECENT_SECONDS = 15 * 60
"""People without a password and a second factor change their security settings soon after signing in."""


class AccountAdapter(DefaultAccountAdapter):
    """Rules for signing in, whatever the way."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def is_safe_url(self, url: str) -> bool:
        """Return whether `url` is on this host. Other allowed hosts are not redirect targets either."""
        request = context.request
        return url_has_allowed_host_and_scheme(
            url, allowed_hosts={request.get_host()}, require_https=request.is_secure()
        )

    def add_message(
        self,
        request: HttpRequest,
        level: int,
        message_template: str | None = None,
        *context: Any,
        **more: Any,
    ) -> None:
        """Show only messages about the second factor and errors; a sign-in needs no message."""
        is_visible = (message_template or "").startswith(("mfa/", "socialaccount/"))
        if is_visible or level >= messages.WARNING:
            super().add_message(request, level, message_template, *context, **more)

    def get_client_ip(self, request: HttpRequest) -> str:
        return client_address(request)

    def respond_user_inactive(self, request: HttpRequest, user: Any) -> HttpResponse:
        audit(None, "sign-in failed", user, address=client_address(request), reason="inactive")
        return refusal(request, _("Your account may not sign in. Ask an administrator."))

    def is_reauthentication_required(self, *, app: str, **more: Any) -> bool:
        """Return whether the person must confirm who they are before they change security settings.

        A person without a password and a second factor has nothing to confirm with. They must have
        signed in recently instead. Raises PermissionDenied if they have not.
        """
        request = context.request
        if get_reauthentication_flows(request.user):
            return True
        records = get_authentication_records(request, request.user)
        if records and _now() - records[-1]["at"] < RECENT_SECONDS:
            return False
        raise PermissionDenied(_("Sign out and sign in again, then you can change this."))


def _now() -> float:
    import time

    return time.time()


def refusal(request: HttpRequest, sentence: str | Promise, status: int = 403) -> HttpResponse:
    """Return the page that says why a sign-in was refused."""
    return render(request, "accounts/sign_in/refused.html", {"sentence": sentence}, status=status)


class ProviderAdapter(DefaultSocialAccountAdapter):
    """Rules for people who sign in through an identity provider."""

    def list_apps(
        self, request: HttpRequest, provider: str | None = None, client_id: str | None = None
    ) -> list[SocialApp]:
        """Return the declared providers in allauth's form, or the one with the name `provider`.

        There are none in the database.
        """
        return [
            app_of(declared) for name, declared in offered().items() if provider in (None, name)
        ]

    def get_provider(
        self, request: HttpRequest, provider: str, client_id: str | None = None
    ) -> Any:
        from accounts.sign_in.oidc import OIDCProvider

        app = self.get_app(request, provider=provider, client_id=client_id)
        if app.provider == OIDCProvider.id:
            return OIDCProvider(request, app=app)
        from accounts.sign_in.saml import SAMLProvider

        return SAMLProvider(request, app=app)

    def authenticate_by_email(self, sociallogin: Any) -> None:
        """Do nothing: `pre_social_login` has stricter rules for linking accounts."""

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        """Refuse people whom the provider's settings exclude, and apply the rights in their claims.

        Raises ImmediateHttpResponse with the page that says why.
        """
        provider = offered().get(sociallogin.account.provider)
        if provider is None:
            self._refuse(request, sociallogin, _("This way to sign in was turned off."))
        claims = sociallogin.claims
        email = claims_.text_of(claims, provider.email_claim)
        verified = bool(email) and claims_.is_verified(provider, claims)
        sociallogin.verified_email = email if verified else ""
        sociallogin.email_addresses = []
        domains = provider.email_domains
        if domains and not (verified and claims_.in_domains(provider, email)):
            self._refuse(
                request,
                sociallogin,
                _("Only people with an e-mail address of the company may sign in."),
            )
        grant = claims_.grant_of(provider, claims)
        if grant is None:
            self._refuse(request, sociallogin, _("Your groups give you no role here."))
        sociallogin.grant = grant
        if sociallogin.state.get("process") == "connect":
            return
        if not sociallogin.is_existing and provider.link_by_email and verified:
            self._link(request, provider, sociallogin)
        if sociallogin.is_existing and sociallogin.user.is_active:
            self.apply(provider, sociallogin.user, grant)

    def _link(self, request: HttpRequest, provider: Provider, sociallogin: Any) -> None:
        person = provisioning.prepared_account(sociallogin.verified_email)
        if person is not None:
            sociallogin.connect(request, person)

    def apply(self, provider: Provider, person: User, grant: claims_.Grant) -> None:
        """Set the person's role, as the claims say."""
        provisioning.set_role(person=person, role=grant.role, provider=provider)

    def is_auto_signup_allowed(self, request: HttpRequest, sociallogin: Any) -> bool:
        return True

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """Return whether a new account is created. Raises ImmediateHttpResponse if not, with a page."""
        provider = offered()[sociallogin.account.provider]
        if not provider.create_accounts:
            self._refuse(
                request,
                sociallogin,
                _("You have no account here. Ask an administrator to create one."),
            )
        return True

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        provider = offered()[sociallogin.account.provider]
        person = provisioning.create_account(
            provider=provider,
            claims=sociallogin.claims,
            email=sociallogin.verified_email,
            account=sociallogin.account,
        )
        sociallogin.user = person
        self.apply(provider, person, sociallogin.grant)
        return person

    def get_connect_redirect_url(self, request: HttpRequest, socialaccount: Any) -> str:
        return reverse("mfa_index")

    def on_authentication_error(
        self,
        request: HttpRequest,
        provider: Any,
        error: Any = None,
        exception: Any = None,
        extra_context: Any = None,
    ) -> None:
        """Record the failure, and raise ImmediateHttpResponse with our page about it."""
        cancelled = error == "cancelled"
        reason = "cancelled" if cancelled else str(exception or "invalid request")[:200]
        audit(
            None,
            "sign-in failed",
            f"Provider {provider.app.provider_id}",
            address=client_address(request),
            reason=reason,
        )
        sentence = (
            _("You cancelled the sign-in.") if cancelled else _("The sign-in failed. Try again.")
        )
        raise ImmediateHttpResponse(refusal(request, sentence, status=401))

    def _refuse(self, request: HttpRequest, sociallogin: Any, sentence: Any) -> NoReturn:
        name = sociallogin.account.provider
        audit(
            sociallogin.user if sociallogin.is_existing else None,
            "sign-in refused",
            f"Provider {name}",
            address=client_address(request),
            reason=str(sentence),
        )
        raise ImmediateHttpResponse(refusal(request, sentence))


def app_of(provider: Provider) -> SocialApp:
    """Return a provider in allauth's form, without saving it."""
    app = SocialApp(
        provider="openid_connect" if provider.kind == "oidc" else "saml",
        provider_id=provider.name,
        name=provider.title,
        client_id=provider.client_id or provider.name,
        secret=provider.secret,
    )
    app.settings = _saml_settings(provider) if provider.kind == "saml" else _oidc_settings(provider)
    return app


def _oidc_settings(provider: Provider) -> dict[str, Any]:
    return {"server_url": provider.issuer, "scope": list(provider.scopes)}


def _saml_settings(provider: Provider) -> dict[str, Any]:
    return {
        "idp": {
            "entity_id": provider.entity_id,
            "sso_url": provider.sso_url,
            "x509cert": provider.certificate,
        },
        "attribute_mapping": {"email": provider.email_claim},
        "advanced": {
            "strict": True,
            "reject_deprecated_algorithm": True,
            "reject_idp_initiated_sso": True,
            "want_name_id": True,
            "want_attribute_statement": False,
            "allow_single_label_domains": True,
        },
    }


class SecondFactorAdapter(DefaultMFAAdapter):
    """Names and secrets of second factors. Secrets of authenticator apps are stored encrypted."""

    def encrypt(self, text: str) -> str:
        return sealing.seal(text)

    def decrypt(self, encrypted_text: str) -> str:
        try:
            return sealing.open_sealed(encrypted_text)
        except InvalidToken:
            raise self.validation_error("incorrect_code") from None

    def _get_user_identifier(self, user: Any) -> str:
        return str(user.get_username())

    def _get_site_name(self) -> str:
        return "Tiebreak"

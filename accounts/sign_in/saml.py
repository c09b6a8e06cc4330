"""Sign in with SAML 2.0. The web imports this module only when SAML is used (see urls.py).

python3-saml checks the responses: signature, audience, times and destination. Only responses to our own
requests are accepted, each once. Single logout is not offered.
"""

from typing import Any

from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.helpers import render_authentication_error
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.saml import provider as base
from allauth.socialaccount.providers.saml import views
from allauth.socialaccount.providers.saml.utils import build_auth, build_saml_config
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from lxml.etree import LxmlError
from onelogin.saml2.auth import OneLogin_Saml2_Settings
from onelogin.saml2.errors import OneLogin_Saml2_Error, OneLogin_Saml2_ValidationError

from accounts.sign_in import oidc

MAX_RESPONSE_LENGTH = 200_000
TRANSIENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"
INVALID = (
    OneLogin_Saml2_Error,
    OneLogin_Saml2_ValidationError,
    LxmlError,
    ImproperlyConfigured,
    PermissionDenied,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
)
"""Exceptions of python3-saml for malformed or hostile responses."""


class SAMLProvider(base.SAMLProvider):
    """A declared SAML provider. Its attributes are the claims."""

    def serialize(self) -> dict[str, Any]:
        return {"id": self.app.provider_id}

    def extract_extra_data(self, data: Any) -> dict[str, Any]:
        return {}  # attributes are personal data, and are needed only now

    def sociallogin_from_response(self, request: HttpRequest, response: Any) -> Any:
        """Return the allauth login. Raises ValueError if the subject changes at each sign-in."""
        if response.get_nameid_format() == TRANSIENT:
            raise ValueError("The provider sent a transient name, which identifies nobody.")
        login = super().sociallogin_from_response(request, response)
        login.claims = dict(response.get_attributes())
        return login


def saml_provider(request: HttpRequest, name: str) -> SAMLProvider:
    """Return a declared provider. Raises Http404 if there is none with this name and protocol."""
    try:
        provider = get_adapter(request).get_provider(request, provider=name)
    except SocialApp.DoesNotExist:
        raise Http404(f"There is no provider {name}.") from None
    if not isinstance(provider, SAMLProvider) or provider.app.provider_id != name:
        raise Http404(f"There is no SAML provider {name}.")
    request.META["HTTP_HOST"] = request.get_host()  # allauth reads it, and HTTP/1.0 may lack it
    return provider


@require_POST
@never_cache
def login(request: HttpRequest, organization_slug: str) -> HttpResponseBase:
    """Start to sign in through a provider."""
    return oidc.start(request, saml_provider(request, organization_slug))


@require_POST
@never_cache
def acs(request: HttpRequest, organization_slug: str) -> HttpResponseBase:
    """Take the provider's response, which arrives without the session, and pass it on to `finish`.

    The response is checked first, so that only what the provider signed is stored.
    """
    provider = saml_provider(request, organization_slug)
    if len(request.POST.get("SAMLResponse", "")) > MAX_RESPONSE_LENGTH:
        return _failed(request, provider, "The response is too large.")
    try:
        auth = build_auth(request, provider)
        auth.process_response(request_id=None)
    except INVALID as error:
        return _failed(request, provider, error)
    if auth.get_errors():
        return _failed(request, provider, auth.get_last_error_reason())
    return views.acs(request, organization_slug)


class Finish(views.FinishACSView):
    def get_provider(self, organization_slug: str) -> SAMLProvider:
        return saml_provider(self.request, organization_slug)


@require_GET
@never_cache
def finish(request: HttpRequest, organization_slug: str) -> HttpResponseBase:
    """Finish to sign in: check the response again, and that this browser asked for it."""
    try:
        return Finish.as_view()(request, organization_slug)
    except INVALID as error:
        return _failed(request, saml_provider(request, organization_slug), error)


@require_GET
def metadata(request: HttpRequest, organization_slug: str) -> HttpResponse:
    """Return our metadata, with which the provider is set up."""
    provider = saml_provider(request, organization_slug)
    config = build_saml_config(request, provider.app.settings, organization_slug)
    del config["sp"]["singleLogoutService"]
    settings = OneLogin_Saml2_Settings(settings=config, sp_validation_only=True)
    return HttpResponse(settings.get_sp_metadata(), content_type="application/samlmetadata+xml")


def single_logout(request: HttpRequest, organization_slug: str) -> HttpResponse:
    """Refuse single logout. allauth needs the address."""
    raise Http404("Single logout is not offered.")


def _failed(request: HttpRequest, provider: Any, reason: object) -> HttpResponse:
    try:
        return render_authentication_error(
            request, provider, exception=reason or "The response is not valid."
        )
    except ImmediateHttpResponse as answer:
        return answer.response

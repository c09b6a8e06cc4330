"""Sign in with OpenID Connect: the authorization code flow with PKCE, state and nonce.

allauth sends the requests. Added here are the checks that it leaves out: the nonce, the signature of an ID
token that came directly from the provider, the provider's issuer, and the subject of the user info.
"""

import secrets
from typing import Any

import jwt
import requests
from allauth.account.utils import get_next_redirect_url
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.helpers import render_authentication_error
from allauth.socialaccount.models import SocialApp, SocialToken
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from accounts.sign_in.providers import is_secure_url

ALGORITHMS = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
"""Only signatures with a public key, so that a published key cannot sign."""
CLOCK_SKEW_SECONDS = 60
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
METADATA_SECONDS = 300


class OIDCAdapter(OpenIDConnectOAuth2Adapter):
    """The requests to one provider during one sign-in."""

    state: dict[str, Any] | None = None

    @property
    def openid_config(self) -> dict[str, Any]:
        """Return the provider's metadata, which are fetched at most once in five minutes.

        Raises OAuth2Error if they name another issuer, or an address without encryption.
        """
        provider = self.get_provider()
        issuer = provider.app.settings["server_url"]
        config: dict[str, Any] | None = cache.get(f"oidc:{issuer}")
        if config is None:
            config = fetch_json(provider.wk_server_url(issuer.rstrip("/")))
            if config.get("issuer") != issuer:
                raise OAuth2Error(f"The metadata of {issuer} name another issuer.")
            for name in ENDPOINTS:
                if not is_secure_url(str(config.get(name, "")).partition("?")[0]):
                    raise OAuth2Error(f"The metadata of {issuer} have no https {name}.")
            cache.set(f"oidc:{issuer}", config, METADATA_SECONDS)
        return config

    def get_access_token_data(self, *args: Any, **options: Any) -> dict[str, Any]:
        try:
            data = super().get_access_token_data(*args, **options)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise OAuth2Error(f"The response with the tokens is not valid: {error}") from None
        if not isinstance(data, dict):
            raise OAuth2Error("The response with the tokens is not valid.")
        return data

    def parse_token(self, data: Any) -> Any:
        """Return the token without its expiry, which does not matter, because it is used immediately."""
        return SocialToken(token=str(data["access_token"]))

    def complete_login(self, request: HttpRequest, app: Any, token: Any, **more: Any) -> Any:
        """Return the allauth login of the person. Raises OAuth2Error if any check fails."""
        id_token = more["response"].get("id_token")
        if not isinstance(id_token, str):
            raise OAuth2Error("The provider sent no ID token.")
        nonce = (self.state or {}).get("nonce")
        claims = verify_id_token(
            id_token,
            keys=fetch_json(self.openid_config["jwks_uri"]),
            issuer=app.settings["server_url"],
            audience=app.client_id,
            nonce=nonce or "",
        )
        if self.openid_config.get("userinfo_endpoint"):
            claims = merge(claims, self._fetch_user_info(token.token))
        try:
            login = self.get_provider().sociallogin_from_response(request, {"userinfo": claims})
        except (ImproperlyConfigured, AttributeError, KeyError, TypeError, ValueError) as error:
            raise OAuth2Error(f"The claims are not valid: {error}") from None
        login.claims = claims
        login.account.extra_data = {}  # claims are personal data, and are needed only now
        return login


def fetch_json(url: str) -> dict[str, Any]:
    """Return the JSON object at an address. Raises OAuth2Error or RequestException."""
    with get_adapter().get_requests_session() as session:
        response = session.get(url)
        response.raise_for_status()
        value = response.json()
    if not isinstance(value, dict):
        raise OAuth2Error(f"{url} is not a JSON object.")
    return value


def verify_id_token(
    token: str, *, keys: dict[str, Any], issuer: str, audience: str, nonce: str
) -> dict[str, Any]:
    """Return the claims of an ID token. Raises OAuth2Error if a check fails.

    Checked are the signature, the issuer, the audience, the expiry and the nonce (OpenID Connect Core,
    section 3.1.3.7).
    """
    try:
        key_id = jwt.get_unverified_header(token).get("kid")
        usable = [key for key in jwt.PyJWKSet.from_dict(keys).keys if key.public_key_use != "enc"]
        matching = [key for key in usable if key_id in (None, key.key_id)]
        if len(matching) != 1:
            raise OAuth2Error("The ID token names no key of the provider.")
        claims: dict[str, Any] = jwt.decode(
            token,
            key=matching[0],
            algorithms=ALGORITHMS,
            issuer=issuer,
            audience=audience,
            leeway=CLOCK_SKEW_SECONDS,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise OAuth2Error(f"The ID token is not valid: {error}") from None
    if not nonce or not secrets.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
        raise OAuth2Error("The ID token has another nonce.")
    if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != audience:
        raise OAuth2Error("The ID token is for another client.")
    return claims


def merge(claims: dict[str, Any], user_info: Any) -> dict[str, Any]:
    """Return the claims of the ID token with those of the user info, which must be the same person's.

    An e-mail address and its verification always come from the same source.
    """
    if not isinstance(user_info, dict) or user_info.get("sub") != claims["sub"]:
        raise OAuth2Error("The user info is about another person.")
    protected = {name: claims[name] for name in ("iss", "aud", "sub", "nonce") if name in claims}
    if "email" in user_info:
        claims = {name: claims[name] for name in claims if name != "email_verified"}
    return {**claims, **user_info, **protected}


class OIDCProvider(OpenIDConnectProvider):
    """A declared provider. Requests cannot add parameters or scopes to those of the settings."""

    oauth2_adapter_class = OIDCAdapter
    pkce_enabled_default = True

    def serialize(self) -> dict[str, Any]:
        return {"id": self.app.provider_id}  # two providers may have the same client_id

    def get_auth_params_from_request(self, request: HttpRequest, action: Any) -> dict[str, Any]:
        return dict(self.get_auth_params())

    def get_scope_from_request(self, request: HttpRequest) -> list[str]:
        return list(self.get_scope())

    def redirect(
        self,
        request: HttpRequest,
        process: Any,
        next_url: Any = None,
        data: Any = None,
        **more: Any,
    ) -> HttpResponse:
        nonce = secrets.token_urlsafe(24)
        return super().redirect(
            request, process, next_url, data, auth_params={"nonce": nonce}, nonce=nonce, **more
        )


class CallbackView(OAuth2CallbackView):
    """The address to which the provider sends people back."""

    def _get_state(self, request: HttpRequest, provider: Any) -> Any:
        state, response = super()._get_state(request, provider)
        self.adapter.state = state
        return state, response


def start(request: HttpRequest, provider: Any) -> HttpResponseBase:
    """Send the person to the provider, to sign in or to connect the provider to their account."""
    process = "connect" if request.POST.get("process") == "connect" else "login"
    if process == "connect" and not request.user.is_authenticated:
        raise PermissionDenied(_("Sign in first."))
    try:
        response = provider.redirect(request, process, next_url=get_next_redirect_url(request))
    except (OAuth2Error, requests.RequestException) as error:
        return render_authentication_error(request, provider, exception=error)
    if response.status_code != 302:
        return response
    # The Content-Security-Policy forbids that a form leads to another site, even by redirects, and
    # nobody knows to which sites a provider redirects. A page that leads on is not a form.
    context = {"address": response.url, "provider": provider}
    return render(request, "accounts/sign_in/continue.html", context)


def oidc_provider(request: HttpRequest, name: str) -> OIDCProvider:
    """Return a declared provider. Raises Http404 if there is none with this name and protocol."""
    try:
        provider = get_adapter(request).get_provider(request, provider=name)
    except SocialApp.DoesNotExist:
        raise Http404(f"There is no provider {name}.") from None
    if not isinstance(provider, OIDCProvider) or provider.app.provider_id != name:
        raise Http404(f"There is no OpenID Connect provider {name}.")
    return provider


@require_POST
@never_cache
def login(request: HttpRequest, provider_id: str) -> HttpResponseBase:
    """Start to sign in through a provider."""
    return start(request, oidc_provider(request, provider_id))


@require_GET
@never_cache
def callback(request: HttpRequest, provider_id: str) -> HttpResponseBase:
    """Finish to sign in through a provider."""
    provider = oidc_provider(request, provider_id)
    view = CallbackView.adapter_view(OIDCAdapter(request, provider_id))
    try:
        return view(request)
    except (OAuth2Error, requests.RequestException) as error:
        return render_authentication_error(request, provider, exception=error)

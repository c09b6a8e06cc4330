"""Addresses of single sign-on, second factors and passkeys. allauth needs the names."""

from collections.abc import Callable
from importlib import import_module

from allauth.account.views import reauthenticate
from allauth.mfa.base import views as base
from allauth.mfa.recovery_codes import views as codes
from allauth.mfa.totp import views as totp
from allauth.mfa.webauthn import views as passkeys
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView

from accounts.sign_in import oidc, pages
from accounts.sign_in.providers import saml_installed

SAML = "sign-in/saml/<slug:organization_slug>/"
CODES = "security/recovery-codes/"
KEY = "security/webauthn/keys/<int:pk>/"

urlpatterns: list[URLPattern] = [
    path("sign-in/oidc/<slug:provider_id>/", oidc.login, name="openid_connect_login"),
    path(
        "sign-in/oidc/<slug:provider_id>/callback/", oidc.callback, name="openid_connect_callback"
    ),
    path("sign-in/confirm/", reauthenticate, name="account_reauthenticate"),
    path("security/", pages.Security.as_view(), name="mfa_index"),
    path("security/authenticate/", base.authenticate, name="mfa_authenticate"),
    path("security/reauthenticate/", base.reauthenticate, name="mfa_reauthenticate"),
    path("security/totp/activate/", pages.AddTOTP.as_view(), name="mfa_activate_totp"),
    path(
        "security/totp/deactivate/",
        login_required(totp.deactivate_totp),
        name="mfa_deactivate_totp",
    ),
    path(CODES, login_required(codes.view_recovery_codes), name="mfa_view_recovery_codes"),
    path(
        f"{CODES}generate/",
        login_required(codes.generate_recovery_codes),
        name="mfa_generate_recovery_codes",
    ),
    path(
        f"{CODES}download/",
        login_required(codes.download_recovery_codes),
        name="mfa_download_recovery_codes",
    ),
    path(
        "security/webauthn/",
        RedirectView.as_view(pattern_name="mfa_index"),
        name="mfa_list_webauthn",
    ),
    path("security/webauthn/add/", pages.AddPasskey.as_view(), name="mfa_add_webauthn"),
    path("security/webauthn/login/", passkeys.login_webauthn, name="mfa_login_webauthn"),
    path(
        "security/webauthn/reauthenticate/",
        passkeys.reauthenticate_webauthn,
        name="mfa_reauthenticate_webauthn",
    ),
    path(f"{KEY}remove/", login_required(passkeys.remove_webauthn), name="mfa_remove_webauthn"),
    path(f"{KEY}edit/", login_required(passkeys.edit_webauthn), name="mfa_edit_webauthn"),
    path(
        "security/providers/<int:pk>/disconnect/",
        pages.disconnect_provider,
        name="disconnect-provider",
    ),
    path(
        "people/<int:user_id>/second-factors/", pages.remove_second_factors, name="person-factors"
    ),
]


def saml_view(name: str) -> Callable[..., HttpResponseBase]:
    """Return a view that imports the view with this name from accounts.sign_in.saml when it is used.

    The packages for SAML would take 12 MB in every web process, also if no provider uses SAML.
    """

    def view(request: HttpRequest, **arguments: str) -> HttpResponseBase:
        module = import_module("accounts.sign_in.saml")
        response: HttpResponseBase = getattr(module, name)(request, **arguments)
        return response

    return view


if saml_installed():
    urlpatterns += [
        path(SAML, saml_view("login"), name="saml_login"),
        path(f"{SAML}acs/", csrf_exempt(saml_view("acs")), name="saml_acs"),
        path(f"{SAML}finish/", saml_view("finish"), name="saml_finish_acs"),
        path(f"{SAML}metadata/", saml_view("metadata"), name="saml_metadata"),
        path(f"{SAML}logout/", saml_view("single_logout"), name="saml_sls"),
    ]

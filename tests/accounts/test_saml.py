"""Tests of single sign-on with SAML, with responses that the test signs as the identity provider."""

import base64
import re
import zlib
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from django.test import Client
from onelogin.saml2.utils import OneLogin_Saml2_Utils

from accounts.models import AuditEntry, Role, User

pytestmark = pytest.mark.django_db
HERE = "http://testserver/sign-in/saml/adfs/"


def new_key() -> tuple[str, str]:
    """Return a private key and its certificate, in PEM format."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idp")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()


KEY, OTHER_KEY = new_key(), new_key()


@pytest.fixture(autouse=True)
def declared(settings, tmp_path: Path) -> None:
    settings.PROVIDERS = tmp_path / "providers.toml"
    settings.PROVIDERS.write_text(
        f"""
        [adfs]
        kind = "saml"
        entity_id = "https://idp.example.org"
        sso_url = "https://idp.example.org/sso"
        certificate = '''{KEY[1]}'''
        create_accounts = true
        username_claim = "uid"
        roles = {{ trainers = "trainer" }}
        """
    )


def ask(client: Client) -> str:
    """Start to sign in, and return the number of the request."""
    page = client.post(HERE).content.decode()
    found = re.search(r'content="0; url=([^"]+)"', page)
    assert found, page
    address = urlsplit(unescape(found[1]))
    assert address.netloc == "idp.example.org"
    request = zlib.decompress(base64.b64decode(parse_qs(address.query)["SAMLRequest"][0]), -15)
    return re.search(r'ID="([^"]+)"', request.decode())[1]  # type: ignore[index]


def response(request_id: str, **changes: Any) -> str:
    """Return a signed response to a request, in Base64."""
    now = changes.get("now", datetime.now(UTC))
    at = {n: (now + timedelta(minutes=n)).strftime("%Y-%m-%dT%H:%M:%SZ") for n in (-5, 0, 5)}
    kind = changes.get("format", "persistent")
    assertion = f"""<saml:Assertion xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_a1"
        Version="2.0" IssueInstant="{at[0]}"><saml:Issuer>https://idp.example.org</saml:Issuer>
        <saml:Subject><saml:NameID
        Format="urn:oasis:names:tc:SAML:2.0:nameid-format:{kind}">{changes.get("subject", "s-1")}</saml:NameID>
        <saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer">
        <saml:SubjectConfirmationData NotOnOrAfter="{at[5]}" Recipient="{HERE}acs/"
        InResponseTo="{request_id}"/></saml:SubjectConfirmation></saml:Subject>
        <saml:Conditions NotBefore="{at[-5]}" NotOnOrAfter="{at[5]}"><saml:AudienceRestriction>
        <saml:Audience>{changes.get("audience", f"{HERE}metadata/")}</saml:Audience>
        </saml:AudienceRestriction></saml:Conditions>
        <saml:AuthnStatement AuthnInstant="{at[0]}"><saml:AuthnContext><saml:AuthnContextClassRef
        >urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef>
        </saml:AuthnContext></saml:AuthnStatement><saml:AttributeStatement>
        <saml:Attribute Name="uid"><saml:AttributeValue>ada</saml:AttributeValue></saml:Attribute>
        <saml:Attribute Name="groups"><saml:AttributeValue>trainers</saml:AttributeValue>
        </saml:Attribute></saml:AttributeStatement></saml:Assertion>"""
    key, certificate = changes.get("key", KEY)
    if changes.get("signed", True):
        assertion = OneLogin_Saml2_Utils.add_sign(assertion, key, certificate).decode()
    assertion = assertion.replace(*changes.get("forged", ("", "")))
    text = f"""<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" ID="_r1" Version="2.0"
        xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" IssueInstant="{at[0]}"
        Destination="{HERE}acs/" InResponseTo="{request_id}">
        <saml:Issuer>https://idp.example.org</saml:Issuer><samlp:Status><samlp:StatusCode
        Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status>{assertion}</samlp:Response>"""
    return base64.b64encode(text.encode()).decode()


def answer(client: Client, saml_response: str) -> Any:
    """Send a response as the browser does, without the session, and then follow the redirect with it."""
    client.handler.enforce_csrf_checks = True
    reply = client.post(f"{HERE}acs/", {"SAMLResponse": saml_response})
    client.handler.enforce_csrf_checks = False
    return client.get(reply.url) if reply.status_code == 302 else reply


def signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


def test_a_person_signs_in_with_saml(settings) -> None:
    client = Client()
    request_id = ask(client)
    reply = answer(client, response(request_id))
    assert reply.status_code == 302 and reply.url == "/" and signed_in(client)
    person = User.objects.get()
    assert (person.username, person.role) == ("ada", Role.TRAINER)
    assert AuditEntry.objects.get(action="signed in").details["provider"] == "adfs"
    again = Client()
    answer(again, response(ask(again)))
    assert signed_in(again) and User.objects.count() == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"key": OTHER_KEY},
        {"signed": False},
        {"forged": ("trainers", "root")},
        {"audience": "https://other.example.org"},
        {"now": datetime.now(UTC) - timedelta(hours=1)},
        {"format": "transient"},
        {"subject": ""},
    ],
    ids=["other key", "unsigned", "forged", "other audience", "expired", "transient", "empty"],
)
def test_a_hostile_response_signs_nobody_in(changes) -> None:
    client = Client()
    assert answer(client, response(ask(client), **changes)).status_code == 401
    assert not signed_in(client) and not User.objects.exists()


@pytest.mark.parametrize(
    "sent", ["", "x", "!!!", base64.b64encode(b"<a/>").decode(), "A" * 300_000]
)
def test_a_malformed_response_is_refused(sent) -> None:
    client = Client()
    ask(client)
    assert answer(client, sent).status_code == 401 and not signed_in(client)


def test_a_response_that_nobody_asked_for_or_of_another_browser_is_refused() -> None:
    client, other = Client(), Client()
    request_id = ask(client)
    assert answer(other, response(request_id)).status_code == 401 and not signed_in(other)
    assert answer(client, response("_unknown")).status_code == 401 and not signed_in(client)


def test_a_response_cannot_be_replayed() -> None:
    client = Client()
    sent = response(ask(client))
    answer(client, sent)
    client.post("/logout/")
    assert answer(client, sent).status_code == 401 and not signed_in(client)


def test_the_metadata_name_our_addresses() -> None:
    reply = Client().get(f"{HERE}metadata/")
    assert f'{HERE}acs/"' in reply.content.decode() and b"SingleLogout" not in reply.content
    assert Client().get("/sign-in/saml/unknown/metadata/").status_code == 404

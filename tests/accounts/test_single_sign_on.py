"""Tests of single sign-on with OpenID Connect: whom it lets in, with which rights, and whom not."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from allauth.socialaccount.models import SocialAccount
from cryptography.hazmat.primitives.asymmetric import rsa
from django.test import Client

from accounts.models import AuditEntry, Role, User
from labeling.models import Membership
from tests.accounts.oidc import FakeProvider, finish, running, sign_in, start
from tests.labeling.world import make_project

pytestmark = pytest.mark.django_db
VERIFIED = {"email": "ada@example.org", "email_verified": True}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeProvider]:
    with running() as provider:
        yield provider


@pytest.fixture
def provider(server: FakeProvider) -> FakeProvider:
    server.reset()
    return server


@pytest.fixture
def declare(provider: FakeProvider, settings, tmp_path: Path) -> Callable[..., None]:
    """Return a function that declares the provider, with further settings as lines of TOML."""

    def write(*lines: str) -> None:
        settings.PROVIDERS = tmp_path / "providers.toml"
        text = "\n".join([f'issuer = "{provider.issuer}"', 'client_id = "tiebreak"', *lines])
        settings.PROVIDERS.write_text(f"[company]\n{text}\n[other]\n{text}\n")

    write("create_accounts = true")
    return write


def signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
HOSTILE = {
    "a wrong nonce": {"nonce": "wrong"},
    "no nonce": {"claims": {"sub": "1", "nonce": None}},
    "an expired token": {"claims": {"sub": "1", "exp": int(time.time()) - 120}},
    "a token without an expiry": {"claims": {"sub": "1", "exp": None}},
    "a token of another issuer": {"claims": {"sub": "1", "iss": "https://evil.test"}},
    "a token for another client": {"claims": {"sub": "1", "aud": "another"}},
    "a token for several clients": {"claims": {"sub": "1", "aud": ["tiebreak", "x"], "azp": "x"}},
    "a token with another signature": {"signing_key": OTHER_KEY},
    "a token without a signature": {"signing_key": "", "algorithm": "none"},
    "a token signed with a shared secret": {"signing_key": "k" * 40, "algorithm": "HS256"},
    "user info of another person": {"user_info": {"sub": "2"}},
    "no ID token": {"tokens": {"access_token": "a"}},
    "tokens that are a list": {"tokens": ["access_token"]},
    "an empty subject": {"claims": {"sub": ""}},
    "a long subject": {"claims": {"sub": "x" * 5000}},
    "metadata of another issuer": {"metadata": {"issuer": "https://evil.test"}},
    "keys without encryption": {"metadata": {"jwks_uri": "http://evil.test/keys"}},
}


@pytest.mark.parametrize("answers", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_answer_signs_nobody_in(declare, provider, answers) -> None:
    client = Client()
    if "metadata" in answers:
        provider.metadata = answers["metadata"]
        reply = client.post("/sign-in/oidc/company/")
    else:
        asked = start(client)
        provider.nonce = asked["nonce"]
        for name, value in answers.items():
            setattr(provider, name, value)
        reply = finish(client, asked["state"])
    assert reply.status_code == 401
    assert not signed_in(client) and not User.objects.exists()
    assert AuditEntry.objects.get().action == "sign-in failed"


def test_a_wrong_state_or_a_state_of_another_browser_or_provider_is_refused(declare, provider):
    client, other = Client(), Client()
    asked = start(client)
    provider.nonce = asked["nonce"]
    assert finish(client, "wrong").status_code == 401
    assert finish(other, asked["state"]).status_code == 401
    assert finish(client, asked["state"], name="other").status_code == 401
    assert not User.objects.exists()
    assert finish(client, asked["state"]).status_code == 302 and signed_in(client)


def test_a_code_cannot_be_replayed(declare, provider) -> None:
    client = Client()
    asked = start(client)
    provider.nonce = asked["nonce"]
    assert finish(client, asked["state"]).status_code == 302
    client.post("/logout/")
    assert finish(client, asked["state"]).status_code == 401 and not signed_in(client)


@pytest.mark.parametrize(
    "target", ["https://evil.test/", "//evil.test/", "javascript:alert(1)", "/\\evil.test"]
)
def test_next_leads_only_to_this_site(declare, provider, target, settings) -> None:
    settings.ALLOWED_HOSTS = ["testserver", "evil.test"]
    assert sign_in(Client(), provider, next=target)["Location"] == "/"


def test_next_leads_on(declare, provider) -> None:
    assert sign_in(Client(), provider, next="/runs/?page=2")["Location"] == "/runs/?page=2"


def test_a_request_cannot_add_parameters_for_the_provider(declare, provider) -> None:
    asked = start(Client(), query="?auth_params=redirect_uri%3Dhttps://evil.test&scope=x")
    assert asked["redirect_uri"] == "http://testserver/sign-in/oidc/company/callback/"
    assert set(asked["scope"].split()) == {"openid", "profile", "email"}
    assert asked["code_challenge_method"] == "S256" and len(asked["nonce"]) > 20


def test_signing_in_needs_a_form_of_this_site(declare) -> None:
    client = Client(enforce_csrf_checks=True)
    assert client.get("/sign-in/oidc/company/").status_code == 405
    assert client.post("/sign-in/oidc/company/").status_code == 403
    assert client.post("/sign-in/oidc/unknown/").status_code == 403


def test_without_the_setting_nobody_gets_a_new_account(declare, provider) -> None:
    declare()
    reply = sign_in(Client(), provider)
    assert reply.status_code == 403 and b"You have no account here" in reply.content
    assert not User.objects.exists() and not SocialAccount.objects.exists()


@pytest.mark.parametrize(
    ("claims", "allowed"),
    [
        (VERIFIED, True),
        ({**VERIFIED, "email": "ada@EXAMPLE.org"}, True),
        ({**VERIFIED, "email_verified": False}, False),
        ({**VERIFIED, "email_verified": "false"}, False),
        ({"email": "ada@example.org"}, False),
        ({**VERIFIED, "email": "ada@example.org.evil.test"}, False),
        ({**VERIFIED, "email": "ada@sub.example.org"}, False),
        ({}, False),
    ],
)
def test_only_verified_addresses_of_the_domains_sign_in(declare, provider, claims, allowed) -> None:
    declare("create_accounts = true", 'email_domains = ["example.org"]')
    provider.claims |= claims
    client = Client()
    sign_in(client, provider)
    assert signed_in(client) is allowed and User.objects.exists() is allowed


def test_an_address_and_its_verification_come_from_the_same_source(declare, provider) -> None:
    declare("create_accounts = true", 'email_domains = ["example.org"]')
    provider.claims |= {"email": "ada@elsewhere.test", "email_verified": True}
    provider.user_info = {"sub": "1", "email": "ada@example.org"}
    client = Client()
    sign_in(client, provider)
    assert not signed_in(client)


@pytest.mark.parametrize("lines", [[], ["link_by_email = true"]])
def test_an_existing_account_with_the_same_name_or_address_is_not_taken_over(
    declare, provider, lines
) -> None:
    declare("create_accounts = true", *lines)
    User.objects.create_user("ada", "ada@example.org", password="a-long-passphrase-7")
    provider.claims |= VERIFIED
    sign_in(Client(), provider)
    assert sorted(User.objects.values_list("username", flat=True)) == ["ada", "ada-2"]
    assert SocialAccount.objects.get().user.username == "ada-2"


def prepared(**fields) -> User:
    person = User(username="prepared", email="Ada@example.org", **fields)
    person.set_unusable_password()
    person.save()
    return person


@pytest.mark.parametrize(
    ("fields", "verified", "lines", "linked"),
    [
        ({}, True, ["link_by_email = true"], True),
        ({}, True, [], False),
        ({}, False, ["link_by_email = true"], False),
        ({"is_superuser": True}, True, ["link_by_email = true"], False),
        ({"is_active": False}, True, ["link_by_email = true"], False),
        ({"last_login": "2026-01-01T00:00Z"}, True, ["link_by_email = true"], False),
    ],
)
def test_a_verified_address_links_only_an_account_that_nobody_used(
    declare, provider, fields, verified, lines, linked
) -> None:
    declare(*lines)
    person = prepared(**fields)
    provider.claims |= {**VERIFIED, "email_verified": verified}
    client = Client()
    sign_in(client, provider)
    assert signed_in(client) is linked
    assert SocialAccount.objects.filter(user=person).exists() is linked
    assert AuditEntry.objects.filter(action="provider connected").exists() is linked


def test_claims_are_not_stored(declare, provider) -> None:
    provider.claims |= {"salary": "secret", "email": "ada@unverified.test"}
    sign_in(Client(), provider)
    assert SocialAccount.objects.get().extra_data == {}
    assert User.objects.get().email == ""


def test_an_inactive_account_is_refused(declare, provider) -> None:
    sign_in(Client(), provider)
    User.objects.update(is_active=False)
    provider.nonce = ""
    client = Client()
    assert sign_in(client, provider).status_code == 403 and not signed_in(client)


def test_the_role_follows_the_claims_at_each_sign_in(declare, provider) -> None:
    declare(
        "create_accounts = true",
        'roles_claim = "realm_access.roles"',
        'roles = { labels = "lead", gpu = "trainer", root = "administrator" }',
    )
    for roles, role, administrator in [
        (["labels", "gpu"], Role.TRAINER, False),
        (["root"], Role.TRAINER, True),
        (["labels"], Role.LEAD, False),
        (["unknown", 7, {"a": 1}], Role.REVIEWER, False),
        ("gpu", Role.TRAINER, False),
    ]:
        provider.nonce = ""
        provider.claims["realm_access"] = {"roles": roles}
        client = Client()
        sign_in(client, provider)
        person = User.objects.get()
        assert signed_in(client)
        assert (person.role, person.is_superuser) == (role, administrator)
        assert person.is_staff is (role != Role.REVIEWER)


def test_a_provider_without_roles_changes_none(declare, provider) -> None:
    sign_in(Client(), provider)
    User.objects.update(role=Role.LEAD, is_superuser=True)
    provider.nonce = ""
    sign_in(Client(), provider)
    assert User.objects.get().role == Role.LEAD and User.objects.get().is_superuser


def test_a_person_without_a_role_is_refused_if_the_settings_say_so(declare, provider) -> None:
    declare("create_accounts = true", 'default_role = "none"', 'roles = { team = "reviewer" }')
    reply = sign_in(Client(), provider)
    assert reply.status_code == 403 and b"Your groups give you no role here" in reply.content
    provider.nonce, provider.claims["groups"] = "", ["team"]
    assert sign_in(Client(), provider).status_code == 302


def test_memberships_follow_the_claims_and_others_are_kept(declare, provider) -> None:
    lamps, chairs, own = make_project(), make_project(), make_project()
    declare(
        "create_accounts = true",
        f'projects = {{ l = ["{lamps.slug}", "missing"], c = ["{chairs.slug}"] }}',
    )
    provider.claims["groups"] = ["l"]
    sign_in(Client(), provider)
    person = User.objects.get()
    assert person.memberships.get().project == lamps
    Membership.objects.create(project=own, user=person, role="reviewer")
    provider.nonce, provider.claims["groups"] = "", ["c"]
    sign_in(Client(), provider)
    assert {m.project for m in person.memberships.all()} == {chairs, own}


def test_a_person_connects_a_provider_to_their_own_account(declare, provider) -> None:
    declare()
    person = User.objects.create_user("grace", password="a-long-passphrase-7")
    client = Client()
    assert client.post("/sign-in/oidc/company/", {"process": "connect"}).status_code == 403
    client.post("/login/", {"username": "grace", "password": "a-long-passphrase-7"})
    reply = sign_in(client, provider, process="connect")
    assert reply.url.startswith("/sign-in/confirm/")
    reply = client.post(reply.url, {"password": "a-long-passphrase-7"})
    assert reply.url == "/security/" and SocialAccount.objects.get().user == person
    provider.nonce = ""
    fresh = Client()
    assert sign_in(fresh, provider).status_code == 302 and signed_in(fresh)

    eve = User.objects.create_user("eve", password="a-long-passphrase-7")
    other = Client()
    other.post("/login/", {"username": "eve", "password": "a-long-passphrase-7"})
    provider.nonce = ""
    reply = sign_in(other, provider, process="connect")
    other.post(reply.url, {"password": "a-long-passphrase-7"})
    assert not SocialAccount.objects.filter(user=eve).exists()


def test_a_failed_connection_to_the_provider_is_a_page(declare, settings) -> None:
    settings.PROVIDERS.write_text('[company]\nissuer = "http://localhost:9"\nclient_id = "x"')
    assert Client().post("/sign-in/oidc/company/").status_code == 401

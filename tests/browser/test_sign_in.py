"""Tests of single sign-on, codes and passkeys in a real browser, with a real OpenID Connect provider."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from oidc_provider_mock import User as Claims
from oidc_provider_mock import run_server_in_thread
from playwright.sync_api import Page, expect

from accounts.models import AuditEntry, Role, User
from tests.labeling.world import make_project

PASSWORD = "correct horse 9"


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """Run an OpenID Connect provider, and return its issuer."""
    ada = {
        "preferred_username": "ada",
        "given_name": "Ada",
        "email": "ada@example.org",
        "email_verified": True,
        "groups": ["trainers", "lamp-team"],
    }
    eve = {**ada, "preferred_username": "eve", "email": "eve@evil.test", "groups": []}
    people = [Claims(sub="1", claims=ada), Claims(sub="2", claims=eve)]
    with run_server_in_thread(user_claims=people) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def declare(provider: str, settings, monkeypatch, tmp_path: Path) -> Callable[..., None]:
    """Return a function that declares the provider, with further settings as lines of TOML."""
    monkeypatch.setenv("COMPANY_SECRET", "secret")

    def write(*lines: str) -> None:
        settings.PROVIDERS = tmp_path / "providers.toml"
        first = [
            "[company]",
            'label = "Company"',
            f'issuer = "{provider}"',
            'client_id = "tiebreak"',
        ]
        first.append('secret_variable = "COMPANY_SECRET"')
        settings.PROVIDERS.write_text("\n".join([*first, *lines]))

    return write


@pytest.fixture(autouse=True)
def fast_hashes(settings) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def choose(page: Page, subject: str) -> None:
    """Sign in at the provider."""
    page.get_by_role("button", name="Sign in with Company").click()
    page.get_by_role("button", name=subject, exact=True).click()


def test_a_person_signs_in_through_a_provider_and_gets_the_rights_of_their_groups(
    visit, declare
) -> None:
    project = make_project()
    declare(
        "create_accounts = true",
        'email_domains = ["example.org"]',
        'roles = { trainers = "trainer" }',
        f'projects = {{ lamp-team = ["{project.slug}:lead"] }}',
    )
    page = visit("/login/?next=/security/")
    choose(page, "1")
    page.wait_for_url("**/security/")
    expect(page.get_by_text("You can sign in with Company.")).to_be_visible()
    ada = User.objects.get()
    assert (ada.username, ada.role, ada.email) == ("ada", Role.TRAINER, "ada@example.org")
    assert project.memberships.get(user=ada).role == "lead"
    entry = AuditEntry.objects.get(action="signed in")
    assert entry.user == ada and entry.details["provider"] == "company"
    page.get_by_role("button", name="Sign out").click()
    choose(page, "1")
    page.wait_for_url(re.compile(r"/$"))
    assert User.objects.count() == 1


def test_a_person_of_another_domain_is_refused(visit, declare) -> None:
    declare("create_accounts = true", 'email_domains = ["example.org"]')
    page = visit("/login/")
    choose(page, "2")
    expect(page.get_by_text("Only people with an e-mail address of the company")).to_be_visible()
    assert not User.objects.exists()
    page.goto("/security/")
    page.wait_for_url("**/login/**")


def sign_in(page: Page, name: str) -> None:
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def test_an_authenticator_app_is_set_up_and_asked_for(visit) -> None:
    User.objects.create_user("grace", password=PASSWORD)
    page = visit("/login/?next=/security/")
    sign_in(page, "grace")
    page.get_by_role("link", name="Set up an app").click()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    secret = page.locator("[data-totp-secret]").inner_text()
    step = int(time.time()) // 30
    page.get_by_label("Authenticator code").fill(code(secret, step))
    page.get_by_role("button", name="Activate").click()
    recovery = page.locator("[data-recovery-codes]").inner_text().split()
    assert len(recovery) == 10
    page.get_by_role("button", name="Sign out").click()

    sign_in(page, "grace")
    page.get_by_label("Code").fill("000000")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Incorrect code.")).to_be_visible()
    page.get_by_label("Code").fill(code(secret, int(time.time()) // 30))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").click()

    sign_in(page, "grace")
    page.get_by_label("Code").fill(recovery[0])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    second_factors = AuditEntry.objects.filter(action="signed in").values_list(
        "details__second_factor", flat=True
    )
    assert list(second_factors.order_by("id")) == [None, "totp", "recovery_codes"]


def code(secret: str, step: int) -> str:
    """Return the code that an authenticator app shows in a step of 30 seconds."""
    return format_hotp_value(hotp_value(secret, step))


def test_a_passkey_signs_in_alone_and_is_a_second_factor(visit) -> None:
    User.objects.create_user("grace", password=PASSWORD)
    page = visit("/login/?next=/security/")
    device = page.context.new_cdp_session(page)
    device.send("WebAuthn.enable")
    device.send(
        "WebAuthn.addVirtualAuthenticator",
        {
            "options": {
                "protocol": "ctap2",
                "transport": "internal",
                "hasResidentKey": True,
                "hasUserVerification": True,
                "isUserVerified": True,
                "automaticPresenceSimulation": True,
            }
        },
    )
    sign_in(page, "grace")
    page.get_by_role("link", name="Add a passkey").click()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    page.get_by_label("Name").fill("Laptop")
    page.get_by_role("button", name="Add a passkey").click()
    page.wait_for_url("**/recovery-codes/")
    page.goto("/security/")
    expect(page.get_by_text("Laptop")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()

    page.get_by_role("button", name="Sign in with a passkey").click()
    page.get_by_role("button", name="Sign out").click()

    sign_in(page, "grace")
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert AuditEntry.objects.filter(action="signed in").count() == 3

"""Tests of second factors: when they are asked for, how often codes work, and roles that need them."""

import time

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, generate_totp_secret, hotp_value
from allauth.socialaccount.models import SocialAccount
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client

from accounts import people
from accounts.models import AuditEntry, Role, SignInAttempts, User
from labeling.removal.erasing import erase_person
from tests.labeling.world import in_threads

pytestmark = pytest.mark.django_db
PASSWORD = "a-long-passphrase-7"
SECRET = generate_totp_secret()


@pytest.fixture(autouse=True)
def quick_hashes(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()


def make_person(name: str = "grace", *, factor: bool = True, **fields) -> User:
    person = User.objects.create_user(name, password=PASSWORD, **fields)
    if factor:
        TOTP.activate(person, SECRET)
    return person


def code(steps: int = 0) -> str:
    """Return the code of the app now, or so many steps of 30 seconds later."""
    return format_hotp_value(hotp_value(SECRET, int(time.time()) // 30 + steps))


def enter_password(name: str = "grace", path: str = "/login/", **environ) -> Client:
    client = Client(**environ)
    client.post(path, {"username": name, "password": PASSWORD})
    return client


def enter(client: Client, text: str):
    return client.post("/security/authenticate/", {"code": text})


def signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_a_password_alone_does_not_sign_in(path) -> None:
    make_person(role=Role.LEAD)
    client = enter_password(path=path)
    assert not signed_in(client)
    assert client.get("/admin/").status_code == 302 and client.get("/security/").status_code == 302
    assert enter(client, code(5)).status_code == 200 and not signed_in(client)
    assert enter(client, code()).status_code == 302 and signed_in(client)


def test_a_one_time_link_asks_for_the_second_factor_and_works_once() -> None:
    person = make_person()
    path = people.issue_link(person=person, by=None)
    client, other = Client(), Client()
    form = {"new_password1": "an0ther-passphrase", "new_password2": "an0ther-passphrase"}
    address, second = client.get(path).url, other.get(path).url
    assert client.post(address, form).url == "/security/authenticate/" and not signed_in(client)
    assert other.post(second, form).status_code == 200 and not signed_in(other)
    enter(client, code())
    assert signed_in(client)


def test_a_code_works_once_even_in_another_process() -> None:
    make_person()
    now = code()
    assert enter(enter_password(), now).status_code == 302
    cache.clear()  # another process has not seen it
    client = enter_password()
    assert enter(client, now).status_code == 200 and not signed_in(client)


def test_a_recovery_code_works_once() -> None:
    person = make_person()
    [first, *_others] = RecoveryCodes.activate(person).generate_codes()
    assert enter(enter_password(), first).status_code == 302
    client = enter_password()
    assert enter(client, first).status_code == 200 and not signed_in(client)


def test_codes_cannot_be_guessed_even_with_the_password() -> None:
    make_person()
    for n in range(10):
        client = enter_password(REMOTE_ADDR=f"192.0.2.{n}")
        assert enter(client, "000000").status_code == 200
    client = enter_password(REMOTE_ADDR="192.0.2.77")
    assert enter(client, code()).status_code == 302  # /login/: the password is refused too
    assert not signed_in(client)
    assert AuditEntry.objects.filter(details__reason="wrong code").count() == 10


def test_a_complete_sign_in_resets_the_count() -> None:
    make_person()
    for _ in range(4):
        enter(enter_password(), "000000")
    client = enter_password()
    enter(client, code())
    assert signed_in(client)
    assert sorted(SignInAttempts.objects.values_list("count", flat=True)) == [1, 4]


@pytest.mark.parametrize("text", ["", "x" * 5000, "0\x000000", "١٢٣٤٥٦", "123456"])
def test_a_malformed_code_is_wrong(text) -> None:
    make_person()
    client = enter_password()
    assert enter(client, text).status_code in (200, 400) and not signed_in(client)


@pytest.mark.parametrize(
    "credential",
    ["", "[]", "{}", '{"response": 1}', '{"id": "x", "response": {"userHandle": [1]}}', "9" * 60_000,
     '{"id":"AA","rawId":"AA","type":"public-key","response":{"clientDataJSON":"AA",'
     '"authenticatorData":"AA","signature":"AA","userHandle":"OTk5OTk5OTk5OTk5OTk5OTk5OTk5OQ"}}'],
)  # fmt: skip
def test_a_malformed_passkey_is_wrong(credential) -> None:
    make_person()
    client = Client()
    client.get("/security/webauthn/login/", headers={"Accept": "application/json"})
    assert client.post("/security/webauthn/login/", {"credential": credential}).status_code == 302
    client = enter_password()
    reply = client.post("/security/authenticate/", {"credential": credential})
    assert reply.status_code == 200 and not signed_in(client)


def test_the_secret_is_stored_encrypted(settings) -> None:
    person = make_person()
    assert SECRET not in str(Authenticator.objects.get(user=person).data)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another", []
    client = Client()
    client.force_login(person)
    client.logout()
    assert enter(enter_password(), code()).status_code == 200


def test_a_role_that_needs_a_second_factor_sees_only_the_page_to_set_it_up(settings) -> None:
    settings.SECOND_FACTOR_ROLES = ["trainer", "administrator"]
    make_person("grace", factor=False, role=Role.TRAINER)
    client = enter_password()
    assert client.get("/runs/").url == "/security/"
    assert client.get("/admin/").url == "/security/"
    assert client.post("/runs/").status_code == 403
    assert b"Your role needs a second factor" in client.get("/security/").content
    assert client.post("/sign-in/confirm/", {"password": PASSWORD}).status_code == 302
    page = client.get("/security/totp/activate/").content.decode()
    secret = page.split("data-totp-secret>")[1].split("<")[0]
    now = format_hotp_value(hotp_value(secret, int(time.time()) // 30))
    client.post("/security/totp/activate/", {"code": now})
    assert client.get("/runs/").status_code == 200

    make_person("ada", factor=False, role=Role.LEAD)
    assert enter_password("ada").get("/projects/").status_code == 200
    assert enter_password("ada").get("/security/").status_code == 200


def test_a_session_from_before_the_rule_must_prove_the_factor(settings) -> None:
    person = make_person(role=Role.TRAINER)
    client = Client()
    client.force_login(person)
    assert client.get("/runs/").status_code == 200
    settings.SECOND_FACTOR_ROLES = ["trainer"]
    assert client.get("/runs/").url == "/security/reauthenticate/"
    client.post("/security/reauthenticate/", {"code": code()})
    assert client.get("/runs/").status_code == 200


def test_settings_change_only_after_the_password_is_confirmed() -> None:
    make_person(factor=False)
    client = enter_password()
    for path in ("totp/activate/", "webauthn/add/"):
        assert client.get(f"/security/{path}").url.startswith("/sign-in/confirm/?next=")
    statuses = [
        client.post("/sign-in/confirm/", {"password": "wrong"}).status_code for _ in range(11)
    ]
    assert statuses == [200] * 10 + [429]


def test_an_administrator_removes_the_second_factors_of_someone_who_lost_them() -> None:
    person = make_person()
    root = make_person("root", factor=False, is_superuser=True)
    client = enter_password("root")
    reply = client.post(f"/people/{person.pk}/second-factors/")
    assert reply.url.startswith("/sign-in/confirm/") and Authenticator.objects.exists()
    client.post(reply.url, {"password": PASSWORD})
    assert not Authenticator.objects.exists()
    entry = AuditEntry.objects.get(action="second factors removed")
    assert (entry.user, entry.subject) == (root, "User grace")
    assert enter_password().get("/security/").status_code == 200
    assert enter_password().post(f"/people/{root.pk}/second-factors/").status_code == 403


def test_an_operator_removes_second_factors_with_a_command() -> None:
    make_person()
    call_command("people", "reset-factors", "grace", "--dry-run")
    assert Authenticator.objects.exists()
    call_command("people", "reset-factors", "grace")
    assert not Authenticator.objects.exists()


def test_without_passwords_only_links_of_administrators_sign_in(settings) -> None:
    root = make_person("root", factor=False, is_superuser=True)
    person = make_person("grace", factor=False)
    early = people.issue_link(person=person, by=None)
    settings.PASSWORDS = False
    client = Client()
    page = client.get("/login/")
    assert b'name="password"' not in page.content
    form = {"username": "root", "password": PASSWORD}
    assert client.post("/login/", form).status_code == 403 and not signed_in(client)
    assert client.post("/admin/login/", form).status_code == 403 and not signed_in(client)
    with pytest.raises(people.LinkError, match="Passwords are turned off"):
        people.issue_link(person=person, by=None)
    assert b"This link is not valid" in client.get(early).content
    path = people.issue_link(person=root, by=None)
    address = client.get(path).url
    assert b'type="password"' not in client.get(address).content
    assert client.post(address).url == "/" and signed_in(client)
    root.refresh_from_db()
    assert root.check_password(PASSWORD)  # unchanged
    assert b"This link is not valid" in Client().get(path).content


@pytest.mark.django_db(transaction=True)
def test_of_concurrent_requests_with_one_code_one_signs_in() -> None:
    make_person()
    clients = [enter_password() for _ in range(4)]
    now = code()
    statuses = in_threads(*[lambda c=client: enter(c, now).status_code for client in clients])
    assert sorted(statuses) == [200, 200, 200, 302]


def test_an_erased_person_keeps_no_way_to_sign_in() -> None:
    person = make_person()
    SocialAccount.objects.create(user=person, provider="company", uid="1")
    erase_person(user=person)
    assert not Authenticator.objects.exists() and not SocialAccount.objects.exists()

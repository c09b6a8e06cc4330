"""Tests of the limits on password guessing, by account and by address."""

from datetime import timedelta

import pytest
from django.contrib.auth import authenticate
from django.test import Client, RequestFactory
from django.utils import timezone

from accounts import people
from accounts.models import Role, SignInAttempts, Token, User
from accounts.sign_in import throttle
from tests.labeling.world import in_threads, make_user

pytestmark = pytest.mark.django_db
RIGHT = "a-long-passphrase-7"


@pytest.fixture(autouse=True)
def quick_hashes(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.SIGN_IN_FAILURES, settings.SIGN_IN_FAILURES_BY_ADDRESS = 3, 8
    settings.SIGN_IN_TRIES_A_MINUTE = 100


@pytest.fixture
def person():
    return make_user_with_password("anna")


def make_user_with_password(name, **fields):
    return User.objects.create_user(name, password=RIGHT, **fields)


def sign_in(name, password, path="/login/", **environ):
    return Client().post(path, {"username": name, "password": password}, **environ)


def fail(name, times, path="/login/", **environ):
    return [sign_in(name, f"wrong-{n}", path, **environ).status_code for n in range(times)]


@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_after_several_wrong_passwords_the_right_one_is_refused_too(person, path):
    User.objects.update(role=Role.LEAD, is_staff=True)
    assert fail("anna", 3, path) == [200, 200, 200]
    reply = sign_in("anna", RIGHT, path)
    assert reply.status_code == 429 and 0 < int(reply["Retry-After"]) <= 15 * 60
    assert b"Try again in 15 minutes." in reply.content
    assert "_auth_user_id" not in reply.client.session


def test_both_sign_in_pages_share_one_count(person):
    User.objects.update(role=Role.LEAD, is_staff=True)
    fail("anna", 2, "/login/")
    fail("anna", 1, "/admin/login/")
    assert sign_in("anna", RIGHT).status_code == 429


def test_the_message_is_translated_to_german(person):
    fail("anna", 3)
    reply = sign_in("anna", RIGHT, HTTP_ACCEPT_LANGUAGE="de")
    assert "Versuchen Sie es in 15 Minuten erneut." in reply.content.decode()


def test_the_block_expires(person):
    fail("anna", 4)
    SignInAttempts.objects.update(since=timezone.now() - timedelta(minutes=16))
    assert sign_in("anna", RIGHT).status_code == 302


def test_signing_in_resets_the_account_and_does_not_count_for_the_address(person):
    for _ in range(3):
        assert fail("anna", 2) == [200, 200]
        assert sign_in("anna", RIGHT).status_code == 302
    assert SignInAttempts.objects.get().count == 6


def test_an_address_that_tries_many_accounts_is_blocked(person):
    for n in range(8):
        assert fail(f"nobody-{n}", 1) == [200]
    assert sign_in("anna", RIGHT).status_code == 429
    assert sign_in("anna", RIGHT, REMOTE_ADDR="192.0.2.7").status_code == 302


def test_an_account_that_is_tried_from_many_addresses_is_blocked(person):
    for n in range(3):
        assert fail("anna", 1, REMOTE_ADDR=f"192.0.2.{n}") == [200]
    assert sign_in("anna", RIGHT, REMOTE_ADDR="192.0.2.9").status_code == 429


def test_other_spellings_of_a_name_share_its_count():
    make_user_with_password("anna")
    for name in ("anna", " anna", "ANNA"):
        fail(name, 1)
    assert sign_in("anna", RIGHT).status_code == 429


@pytest.mark.parametrize("name", ["anna", "inactive", "without-password", "nobody"])
def test_the_throttle_does_not_reveal_whether_an_account_exists(person, name, monkeypatch):
    make_user_with_password("inactive", is_active=False)
    make_user(Role.REVIEWER)
    User.objects.filter(username__startswith="user-").update(username="without-password")
    hashed = []
    from django.contrib.auth import hashers

    encode = hashers.MD5PasswordHasher.encode
    monkeypatch.setattr(
        hashers.MD5PasswordHasher, "encode", lambda *args: hashed.append(1) or encode(*args)
    )
    replies = [sign_in(name, "wrong") for _ in range(5)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429, 429]
    assert len(hashed) == 3
    pages = {reply.content.decode().split("<main")[1].split("csrf")[0] for reply in replies[:3]}
    assert len(pages) == 1


@pytest.mark.django_db(transaction=True)
def test_concurrent_guesses_all_count(person):
    def guess(n):
        return lambda: sign_in("anna", f"wrong-{n}").status_code

    statuses = in_threads(*[guess(n) for n in range(8)])
    assert statuses.count(200) == 3 and statuses.count(429) == 5


def test_changing_the_password_is_throttled_too(person):
    client = Client()
    client.force_login(person)
    form = {
        "old_password": "wrong",
        "new_password1": "n3w-passphrase",
        "new_password2": "n3w-passphrase",
    }
    statuses = [client.post("/password/", form).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert client.post("/password/", {**form, "old_password": RIGHT}).status_code == 429
    person.refresh_from_db()
    assert person.check_password(RIGHT)


def test_a_process_limits_concurrent_hashes(person, monkeypatch):
    monkeypatch.setattr(throttle, "WAIT_SECONDS", 0.01)
    request = RequestFactory().get("/login/")
    held = [throttle.attempt(request, f"other-{n}") for n in range(throttle.MAX_CONCURRENT_HASHES)]
    for attempt in held:
        attempt.__enter__()
    reply = sign_in("anna", RIGHT)
    assert reply.status_code == 429 and b"Try again in a minute." in reply.content
    for attempt in held:
        attempt.__exit__(None, None, None)
    assert sign_in("anna", RIGHT).status_code == 302


def test_old_counts_are_deleted():
    fail("nobody", 1)
    assert throttle.forget_old() == 0
    SignInAttempts.objects.update(since=timezone.now() - timedelta(minutes=16))
    assert throttle.forget_old() == 2 and not SignInAttempts.objects.exists()


def test_mistyped_names_are_not_stored():
    fail("my-secret-password", 1)
    assert "secret" not in str(list(SignInAttempts.objects.values()))


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "192.0.2.1", "127.0.0.1"),
        (1, "192.0.2.1", "192.0.2.1"),
        (1, "6.6.6.6, 192.0.2.1", "192.0.2.1"),
        (2, "6.6.6.6, 192.0.2.1, 10.0.0.1", "192.0.2.1"),
        (2, "192.0.2.1", "127.0.0.1"),
        (1, "", "127.0.0.1"),
    ],
)
def test_only_trusted_proxies_determine_the_address(settings, proxies, forwarded, address):
    settings.PROXIES = proxies
    request = RequestFactory().get("/", HTTP_X_FORWARDED_FOR=forwarded)
    assert throttle.client_address(request) == address


def test_a_forged_address_does_not_evade_the_throttle(person):
    for n in range(8):
        fail(f"nobody-{n}", 1, HTTP_X_FORWARDED_FOR=f"192.0.2.{n}")
    assert sign_in("anna", RIGHT, HTTP_X_FORWARDED_FOR="192.0.2.99").status_code == 429


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::"),
        ("no address", ""),
        ("", ""),
    ],
)
def test_all_ipv6_addresses_of_a_network_share_one_count(address, network):
    assert throttle.network_of(address) == network


def move_back(seconds):
    """Make all attempts so far older."""
    earlier = timedelta(seconds=seconds)
    for row in SignInAttempts.objects.all():
        row.recent = [at - earlier for at in row.recent]
        row.save(update_fields=["recent"])


def test_no_minute_has_more_than_ten_guesses_of_an_address(person, settings):
    settings.SIGN_IN_FAILURES_BY_ADDRESS, settings.SIGN_IN_TRIES_A_MINUTE = 100, 10
    assert fail("a", 1) == [200]
    move_back(50)
    assert [fail(f"b-{n}", 1) for n in range(9)] == [[200]] * 9
    reply = sign_in("anna", RIGHT)
    assert reply.status_code == 429 and int(reply["Retry-After"]) <= 11
    assert sign_in("anna", RIGHT, REMOTE_ADDR="192.0.2.7").status_code == 302
    move_back(15)  # the first guess is more than a minute ago, the others are not
    assert fail("c", 1) == [200]
    assert fail("d", 1) == [429]


def test_no_minute_has_more_than_ten_guesses_for_an_account(person, settings):
    settings.SIGN_IN_FAILURES, settings.SIGN_IN_TRIES_A_MINUTE = 100, 10
    statuses = [fail("anna", 1, REMOTE_ADDR=f"192.0.2.{n}")[0] for n in range(12)]
    assert statuses == [200] * 10 + [429] * 2


def test_a_refused_guess_does_not_prolong_the_wait(person, settings):
    settings.SIGN_IN_FAILURES_BY_ADDRESS, settings.SIGN_IN_TRIES_A_MINUTE = 100, 2
    assert [fail(f"a-{n}", 1)[0] for n in range(5)] == [200, 200, 429, 429, 429]
    move_back(61)
    assert sign_in("anna", RIGHT).status_code == 302


def test_wrong_one_time_links_are_counted(person, settings):
    settings.SIGN_IN_TRIES_A_MINUTE = 3
    right = people.issue_link(person=person, by=None)
    client = Client()
    wrong = right[:-3] + "xxx/"
    assert [client.get(wrong).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert client.get(right).status_code == 429
    assert client.get(right, REMOTE_ADDR="192.0.2.7").status_code == 302


def test_wrong_tokens_of_the_api_are_counted_apart_from_sign_ins(person, settings):
    settings.SIGN_IN_TRIES_A_MINUTE = 3
    _token, key = Token.issue(user=person, name="t")

    def ask(key):
        headers = {"Authorization": f"Bearer {key}"}
        return Client().post("/api/v1/score", {}, "application/json", headers=headers).status_code

    assert [ask(f"tb_{n}") for n in range(5)] == [401, 401, 401, 429, 429]
    assert ask(key) not in (401, 429)
    assert sign_in("anna", RIGHT).status_code == 302


def test_a_command_signs_in_without_an_address(person):
    assert authenticate(None, username="anna", password=RIGHT) == person

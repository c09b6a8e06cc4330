"""Tests of the profile page and of the list of one's own sessions."""

import pytest
from django.contrib.sessions.models import Session
from django.test import Client

from accounts.models import AuditEntry, Token, User, UserSession
from accounts.sign_in.listing import browser_name

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse 42"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@pytest.fixture(autouse=True)
def quick_hashes(settings):
    """Hash passwords quickly, because each test signs in several times."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=PASSWORD, email="ada@example.org")


def signed_in(user: User, agent: str = FIREFOX, address: str = "192.0.2.7") -> Client:
    client = Client(headers={"User-Agent": agent}, REMOTE_ADDR=address)
    client.post("/login/", {"username": user.username, "password": PASSWORD})
    return client


def is_signed_in(client: Client) -> bool:
    return client.get("/projects/").status_code == 200


def save(client: Client, **fields: str):
    form = {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.org", **fields}
    return client.post("/profile/", form)


# --- name and e-mail -----------------------------------------------------------------------------


def test_a_user_changes_their_name_and_nothing_else(ada):
    client = signed_in(ada)
    assert save(client, role="trainer", is_superuser="on", username="root").url == "/profile/"
    ada.refresh_from_db()
    assert ada.get_full_name() == "Ada Lovelace"
    assert (ada.username, ada.role, ada.is_superuser) == ("ada", "reviewer", False)
    assert AuditEntry.objects.get(action="profile changed").details == {
        "fields": ["first_name", "last_name"]
    }
    save(client)
    assert AuditEntry.objects.filter(action="profile changed").count() == 1


@pytest.mark.parametrize("password", ["", "wrong", "nul\x00"])
def test_a_new_email_address_needs_the_password(ada, password):
    client = signed_in(ada)
    reply = save(client, email="new@example.org", current_password=password)
    assert reply.status_code == 422 and "current_password" in reply.context["form"].errors
    ada.refresh_from_db()
    assert ada.email == "ada@example.org"
    assert save(client, email="new@example.org", current_password=PASSWORD).status_code == 302
    ada.refresh_from_db()
    assert ada.email == "new@example.org"


def test_guessing_the_password_on_the_profile_page_is_throttled(ada, settings):
    settings.SIGN_IN_FAILURES = 2
    client = signed_in(ada)
    for _ in range(2):
        assert save(client, email="e@example.org", current_password="x").status_code == 422
    reply = save(client, email="e@example.org", current_password=PASSWORD)
    assert reply.status_code == 429
    ada.refresh_from_db()
    assert ada.email == "ada@example.org"


def test_the_profile_lists_tokens_without_their_keys(ada):
    _, key = Token.issue(user=ada, name="nightly export")
    page = signed_in(ada).get("/profile/").content.decode()
    assert "nightly export" in page and key not in page


def test_strangers_are_asked_to_sign_in():
    for url in ("/profile/", "/profile/sessions/1/end/", "/profile/sessions/end/"):
        assert Client().post(url).url.startswith("/login/")


# --- sessions ------------------------------------------------------------------------------------


def test_the_profile_lists_the_users_sessions_and_no_others(ada):
    first, second = signed_in(ada), signed_in(ada, "curl/8.5.0", "2001:db8::1")
    User.objects.create_user("eve", password=PASSWORD)
    signed_in(User.objects.get(username="eve"), address="203.0.113.9")
    reply = first.get("/profile/")
    sessions = reply.context["sessions"]
    assert [(s.browser, s.address, s.is_current) for s in sessions] == [
        ("Firefox, Linux", "192.0.2.7", True), ("curl", "2001:db8::1", False),
    ]  # fmt: skip
    page = reply.content.decode()
    assert "203.0.113.9" not in page
    for session in UserSession.objects.filter(user=ada):
        assert session.session_key not in page
    assert is_signed_in(second)


def test_a_user_ends_one_of_their_sessions(ada):
    here, there = signed_in(ada), signed_in(ada)
    session = next(s for s in here.get("/profile/").context["sessions"] if not s.is_current)
    url = f"/profile/sessions/{session.id}/end/"
    eve = User.objects.create_user("eve", password=PASSWORD)
    signed_in(eve).post(url)
    assert is_signed_in(there)
    assert here.get(url).status_code == 405
    here.post(url)
    assert is_signed_in(here) and not is_signed_in(there)
    assert AuditEntry.objects.filter(action="session ended", user=ada).count() == 1
    here.post(url)
    assert AuditEntry.objects.filter(action="session ended").count() == 1


def test_a_user_ends_all_other_sessions(ada):
    here, others = signed_in(ada), [signed_in(ada), signed_in(ada)]
    here.post("/profile/sessions/end/")
    assert is_signed_in(here) and not any(map(is_signed_in, others))


def test_an_administrator_ends_all_sessions_of_a_person(ada):
    there = signed_in(ada)
    root = User.objects.create_user("root", password=PASSWORD, is_superuser=True)
    url = f"/people/{ada.pk}/sessions/end/"
    assert there.post(url).status_code == 403
    here = signed_in(root)
    here.post(url)
    assert is_signed_in(here) and not is_signed_in(there)
    assert AuditEntry.objects.get(action="sessions ended").user == root


def test_a_new_password_ends_and_removes_the_other_sessions(ada):
    here, there = signed_in(ada), signed_in(ada)
    form = {
        "old_password": PASSWORD, "new_password1": "another horse 43", "new_password2": "another horse 43",
    }  # fmt: skip
    assert here.post("/password/", form).url == "/profile/"
    assert is_signed_in(here) and not is_signed_in(there)
    [session] = here.get("/profile/").context["sessions"]
    assert session.is_current and session.browser == "Firefox, Linux"


def test_signing_out_and_expiry_remove_a_session_from_the_list(ada):
    here, there = signed_in(ada), signed_in(ada)
    there.post("/logout/")
    assert UserSession.objects.filter(user=ada).count() == 1
    gone = signed_in(ada)
    Session.objects.filter(session_key=gone.session.session_key).update(
        expire_date="2001-01-01T00:00Z"
    )
    assert len(here.get("/profile/").context["sessions"]) == 1
    Session.objects.filter(expire_date__year=2001).delete()
    assert UserSession.objects.filter(user=ada).count() == 1


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (FIREFOX, "Firefox, Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/130.0 Safari/537.36 Edg/130.0",
         "Edge, Windows"),
        ("Mozilla/5.0 (Macintosh) AppleWebKit/605 Version/17.0 Safari/605", "Safari, macOS"),
        ("Mozilla/5.0 (Linux; Android 14) Chrome/130.0 Mobile Safari/537.36", "Chrome, Android"),
        ("", ""), ("<script>", ""), ("x" * 500, "x" * 60),
    ],
)  # fmt: skip
def test_browsers_have_short_names(agent, name):
    assert browser_name(agent) == name

"""Tests of password changes, one-time links and the pages on which accounts are managed."""

import re
from datetime import datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from accounts import people
from accounts.models import AuditEntry, Role, User
from tests.clients import signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fast_hashes(settings) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


OLD, NEW = "correct horse 9", "battery staple 7"


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=OLD, role=Role.REVIEWER)


@pytest.fixture
def root() -> Client:
    return signed_in(User.objects.create_superuser("root", password=OLD))


def actions() -> list[str]:
    return list(AuditEntry.objects.order_by("id").values_list("action", flat=True))


def use(link: str, password: str = NEW, client: Client | None = None):
    """Open a link and set a password, as a browser does."""
    client = client or Client()
    form = client.get(link, follow=True)
    if not form.context["validlink"]:
        return form
    passwords = {"new_password1": password, "new_password2": password}
    return client.post(form.request["PATH_INFO"], passwords, follow=True)


def can_sign_in(name: str, password: str) -> bool:
    return Client().login(username=name, password=password)


# --- one's own password --------------------------------------------------------------------------


def test_users_change_their_own_password(ada):
    client, elsewhere = signed_in(ada), signed_in(ada)
    page = reverse("change-password")
    form = {"old_password": OLD, "new_password1": NEW, "new_password2": NEW}
    answer = client.post(page, form, follow=True)
    assert "Your password was changed." in answer.content.decode()
    assert can_sign_in("ada", NEW) and not can_sign_in("ada", OLD)
    assert client.get("/").status_code == 200
    assert elsewhere.get("/").status_code == 302
    entry = AuditEntry.objects.get(action="password changed")
    assert (entry.user, entry.subject) == (ada, "User ada")
    assert NEW not in str(list(AuditEntry.objects.values()))


@pytest.mark.parametrize(
    "change", [{"old_password": "x"}, {"new_password2": "other"}, {"new_password1": "1"}]
)
def test_a_refused_password_changes_nothing(ada, change):
    form = {"old_password": OLD, "new_password1": NEW, "new_password2": NEW} | change
    answer = signed_in(ada).post(reverse("change-password"), form)
    assert answer.context["form"].errors
    assert can_sign_in("ada", OLD)
    assert "password changed" not in actions()


def test_the_password_page_requires_a_sign_in():
    assert Client().get(reverse("change-password")).url.startswith("/login/")
    assert Client().get("/admin/password_change/").url == reverse("change-password")


def test_the_password_page_is_translated_to_german(ada):
    answer = signed_in(ada).get(reverse("change-password"), headers={"accept-language": "de"})
    assert "Passwort ändern" in answer.content.decode()


# --- one-time links ------------------------------------------------------------------------------


def test_a_link_sets_a_password_once_and_signs_in(ada):
    link = people.issue_link(person=ada, by=None)
    client = Client()
    answer = use(link, client=client)
    assert "you are signed in" in answer.content.decode()
    assert client.get("/").status_code == 200
    assert can_sign_in("ada", NEW) and not can_sign_in("ada", OLD)
    assert "This link is not valid" in use(link, "another one 5").content.decode()
    assert can_sign_in("ada", NEW)
    expected = ["one-time link issued", "password set by a one-time link", "signed in"]
    assert actions()[:3] == expected


def test_an_open_form_sets_no_password_after_the_link_was_used(ada):
    link = people.issue_link(person=ada, by=None)
    late = Client()
    form = late.get(link, follow=True).request["PATH_INFO"]
    use(link)
    passwords = {"new_password1": "another one 5", "new_password2": "another one 5"}
    assert "This link is not valid" in late.post(form, passwords).content.decode()
    assert can_sign_in("ada", NEW)


class Rival:
    """A password validator that uses the same link concurrently."""

    link = ""

    def validate(self, password: str, user: User | None = None) -> None:
        if link := self.link:
            Rival.link = ""
            use(link, "the first one 3")

    def get_help_text(self) -> str:
        return ""


def test_the_first_of_two_requests_with_a_link_sets_the_password(ada, settings):
    settings.AUTH_PASSWORD_VALIDATORS = [{"NAME": f"{__name__}.Rival"}]
    Rival.link = people.issue_link(person=ada, by=None)
    assert "This link is not valid" in use(Rival.link, "the second one 4").content.decode()
    assert can_sign_in("ada", "the first one 3")
    assert actions().count("password set by a one-time link") == 1


def test_only_the_newest_link_works(ada):
    first = people.issue_link(person=ada, by=None)
    second = people.issue_link(person=ada, by=None)
    assert "This link is not valid" in use(first).content.decode()
    assert "you are signed in" in use(second).content.decode()


def test_a_link_expires(ada, settings, monkeypatch):
    link = people.issue_link(person=ada, by=None)
    later = datetime.now() + timedelta(seconds=settings.PASSWORD_RESET_TIMEOUT)
    monkeypatch.setattr(people.link_tokens, "_now", lambda: later + timedelta(seconds=1))
    assert "This link is not valid" in use(link).content.decode()
    monkeypatch.setattr(people.link_tokens, "_now", lambda: later - timedelta(seconds=1))
    assert "you are signed in" in use(link).content.decode()


def test_a_link_expires_when_the_account_is_deactivated(ada):
    link = people.issue_link(person=ada, by=None)
    User.objects.update(is_active=False)
    assert "This link is not valid" in use(link).content.decode()
    ada.refresh_from_db()
    with pytest.raises(people.LinkError, match="may not sign in"):
        people.issue_link(person=ada, by=None)


@pytest.mark.parametrize("link", ["/link/x/y/", "/link/MQ/set-password/", "/link/MTA/a-b/"])
def test_a_forged_link_is_not_valid(ada, link):
    assert "This link is not valid" in Client().get(link, follow=True).content.decode()


def test_the_link_page_is_translated_to_german(ada):
    link = people.issue_link(person=ada, by=None)
    answer = Client().get(link, follow=True, headers={"accept-language": "de"})
    assert "Passwort festlegen" in answer.content.decode()


# --- the pages of administrators -----------------------------------------------------------------


def link_in(answer) -> str:
    return re.search(r"http://testserver(/link/[^\"]+)", answer.content.decode())[1]


def test_an_administrator_creates_an_account_and_gets_its_link_once(root):
    form = {"username": "grace", "first_name": "Grace", "last_name": "Hopper", "role": "trainer"}
    answer = root.post(reverse("people"), form)
    grace = User.objects.get(username="grace")
    assert (grace.role, grace.is_staff, grace.has_usable_password()) == ("trainer", True, False)
    assert "no-store" in answer["Cache-Control"]
    use(link_in(answer))
    assert can_sign_in("grace", NEW)
    assert "http://testserver/link/" not in root.get(reverse("people")).content.decode()
    assert AuditEntry.objects.get(action="user added").details["role"] == "trainer"


def test_an_invalid_account_shows_an_error_next_to_the_field(root, ada):
    answer = root.post(reverse("people"), {"username": "ada", "role": "lead"})
    assert answer.status_code == 422
    assert "already exists" in answer.content.decode()
    assert User.objects.count() == 2


def test_the_page_of_a_link_says_how_long_it_works(root, ada, settings):
    settings.PASSWORD_RESET_TIMEOUT = 5 * 3600
    page = root.post(reverse("person-link", args=[ada.pk])).content.decode()
    assert "within 5 hours" in page


def test_the_page_of_a_person_leads_to_erasing_others_only(root, ada):
    own = User.objects.get(username="root")
    for person, offered in ((ada, True), (own, False)):
        page = root.get(reverse("person", args=[person.pk])).content.decode()
        assert (reverse("erase-person", args=[person.pk]) in page) is offered


@pytest.mark.parametrize("address", ["person-link", "admin"])
def test_an_administrator_issues_a_link(root, ada, address):
    change = root.get(reverse("admin:accounts_user_change", args=[ada.pk])).content.decode()
    page = reverse("person-link", args=[ada.pk])
    assert f'action="{page}"' in change and "../password/" not in change
    use(link_in(root.post(page)))
    assert can_sign_in("ada", NEW)
    assert root.get(page).status_code == 405


def test_the_admin_cannot_set_other_peoples_passwords(root, ada):
    form = {"password1": NEW, "password2": NEW, "usable_password": "true"}
    assert root.post(f"/admin/accounts/user/{ada.pk}/password/", form).status_code in {302, 404}
    assert can_sign_in("ada", OLD)
    added = root.post(
        reverse("admin:accounts_user_add"), {"username": "eve", "role": "lead"} | form
    )
    assert not User.objects.get(username="eve").has_usable_password()
    use(link_in(added))
    assert can_sign_in("eve", NEW)


def test_an_administrator_changes_a_role(root, ada):
    form = {"role": "lead", "is_active": "on"}
    root.post(reverse("person", args=[ada.pk]), form)
    ada.refresh_from_db()
    assert (ada.role, ada.is_staff) == ("lead", True)
    root.post(reverse("person", args=[ada.pk]), {"role": "reviewer"})
    ada.refresh_from_db()
    assert (ada.role, ada.is_staff, ada.is_active) == ("reviewer", False, False)
    assert actions().count("user changed") == 2


def test_administrators_cannot_remove_their_own_rights(root):
    own = User.objects.get(username="root")
    answer = root.post(reverse("person", args=[own.pk]), {"role": "reviewer", "is_active": "on"})
    assert answer.status_code == 422
    own.refresh_from_db()
    assert own.is_superuser


@pytest.mark.parametrize("role", Role.values)
def test_only_administrators_manage_accounts(ada, role):
    client = signed_in(User.objects.create(username="other", role=role))
    for address in (reverse("people"), reverse("person", args=[ada.pk])):
        assert client.get(address).status_code == 403
        assert client.post(address, {"username": "eve", "role": "lead"}).status_code == 403
        assert Client().get(address).status_code == 302
    assert client.post(reverse("person-link", args=[ada.pk])).status_code == 403
    ada.refresh_from_db()
    assert (ada.role, ada.link_number, User.objects.count()) == ("reviewer", 0, 2)


def test_the_list_of_people_has_a_search_and_pages(root, monkeypatch):
    monkeypatch.setattr("accounts.views.PEOPLE_PER_PAGE", 5)
    User.objects.bulk_create(User(username=f"person-{n}") for n in range(9))
    first = root.get(reverse("people")).content.decode()
    assert "person-3" in first and "person-8" not in first and "Next page" in first
    assert "person-8" in root.get(reverse("people"), {"q": "N-8"}).content.decode()
    for odd in ("²", "%"):
        assert root.get(reverse("people"), {"q": odd, "page": odd}).status_code == 200


# --- a server without accounts -------------------------------------------------------------------


def test_the_sign_in_page_explains_how_to_create_the_first_account():
    User.objects.create(username="simulated", simulated=True)
    command = "manage.py createsuperuser"
    assert command in Client().get("/login/").content.decode()
    User.objects.create_superuser("root", password=OLD)
    assert command not in Client().get("/login/").content.decode()


# --- the command ---------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    output = StringIO()
    call_command("people", *arguments, stdout=output)
    return output.getvalue().strip()


def test_the_command_creates_an_account_and_prints_its_link():
    link = run("add", "grace", "--administrator", "--site", "https://rank.example.org/")
    assert link.startswith("https://rank.example.org/link/")
    use(link.removeprefix("https://rank.example.org"))
    grace = User.objects.get(username="grace")
    assert can_sign_in("grace", NEW) and grace.is_superuser and grace.is_staff


def test_the_command_prints_a_link_for_an_account(ada):
    use(run("link", "ada").removeprefix("http://localhost:8000"))
    assert can_sign_in("ada", NEW)


def test_the_command_explains_errors_and_a_dry_run_writes_nothing(ada):
    for arguments in (["add", "ada"], ["add", "a b"], ["link", "nobody"]):
        with pytest.raises(CommandError):
            run(*arguments)
    run("add", "grace", "--dry-run")
    run("link", "ada", "--dry-run")
    ada.refresh_from_db()
    assert (User.objects.count(), ada.link_number, actions()) == (1, 0, [])

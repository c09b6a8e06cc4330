from importlib import import_module

import pytest
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, connection
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from accounts.access import lead_required, trainer_required, user_of
from accounts.models import AuditEntry, Role, Token, User, audit

pytestmark = pytest.mark.django_db


def person(role: Role, **kwargs: object) -> User:
    return User.objects.create_user(username=f"a-{role}", role=role, **kwargs)


@lead_required
def for_leads(request: HttpRequest) -> HttpResponse:
    return HttpResponse("lead")


@trainer_required
def for_trainers(request: HttpRequest) -> HttpResponse:
    return HttpResponse("trainer")


def ask(view: object, user: object) -> int:
    request = RequestFactory().get("/")
    request.user = user  # type: ignore[assignment]
    try:
        return view(request).status_code  # type: ignore[operator]
    except PermissionDenied:
        return 403


@pytest.mark.parametrize(
    ("role", "lead_page", "trainer_page"),
    [(Role.REVIEWER, 403, 403), (Role.LEAD, 200, 403), (Role.TRAINER, 200, 200)],
)
def test_a_page_opens_for_its_roles_only(role: Role, lead_page: int, trainer_page: int) -> None:
    user = person(role)
    assert ask(for_leads, user) == lead_page
    assert ask(for_trainers, user) == trainer_page


def test_an_anonymous_visitor_is_asked_to_sign_in() -> None:
    from django.contrib.auth.models import AnonymousUser

    assert ask(for_leads, AnonymousUser()) == 302
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    with pytest.raises(PermissionDenied):
        user_of(request)


def test_a_deactivated_user_has_no_permissions() -> None:
    user = person(Role.TRAINER, is_active=False)
    assert not user.can_train
    assert not user.has_perm("labeling.view_prompt")


@pytest.mark.parametrize(
    ("role", "permission", "granted"),
    [
        (Role.REVIEWER, "labeling.view_prompt", False),
        (Role.LEAD, "labeling.change_guidelineversion", True),
        (Role.LEAD, "runs.view_run", False),
        (Role.TRAINER, "runs.view_run", True),
        (Role.TRAINER, "runs.delete_run", False),
        (Role.TRAINER, "accounts.change_user", False),
    ],
)
def test_admin_permissions_follow_the_role(role: Role, permission: str, granted: bool) -> None:
    assert person(role).has_perm(permission) is granted


def test_leads_and_trainers_may_enter_the_admin() -> None:
    assert [person(role).is_staff for role in Role] == [False, True, True]


def test_the_database_refuses_an_unknown_role() -> None:
    person(Role.REVIEWER)
    with pytest.raises(IntegrityError, match="user_role_known"):
        User.objects.update(role="emperor")


def test_only_the_digest_of_a_token_is_stored() -> None:
    token, key = Token.issue(user=person(Role.TRAINER), name="script")
    assert token.digest == Token.digest_of(key)
    assert key not in str(token.__dict__)


def test_an_audit_entry_records_user_action_and_subject() -> None:
    user = person(Role.LEAD)
    audit(user, "guideline published", user, version=3)
    entry = AuditEntry.objects.get()
    assert (entry.user, entry.action, entry.details) == (
        user,
        "guideline published",
        {"version": 3},
    )


def test_the_migration_keeps_the_access_of_existing_trainers_and_gives_nobody_more():
    for role in Role.values:
        person(role)
    migration = import_module("accounts.migrations.0012_all_projects")
    with connection.cursor() as cursor:
        cursor.execute(migration.KEEP_ACCESS)
    everywhere = [user.username for user in User.objects.order_by("pk") if user.is_everywhere]
    assert everywhere == ["a-trainer"]

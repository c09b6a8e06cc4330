"""Tests of tokens, idempotency keys and the limit of requests."""

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from accounts.models import IdempotentRequest, Role, Scope
from config.web.api import api
from labeling.models import Membership, Project, Task
from tests.api.caller import Caller, refused
from tests.api.test_projects_api import lamp
from tests.labeling.world import in_threads, make_member, make_project, make_user

pytestmark = pytest.mark.django_db

KEY = "Idempotency-Key"


@pytest.fixture
def trainer():
    return Caller(make_user(Role.TRAINER))


def operations():
    """Yield the method, the path and the scope of each operation of the API."""
    for router in api._get_bound_routers():
        for path, view in router.path_operations.items():
            for operation in view.operations:
                for method in operation.methods:
                    yield method, path, operation.auth_callbacks[0].scope


def test_a_token_without_the_scope_is_refused_before_its_body_is_read(trainer):
    for method, path, scope in operations():
        others = [other for other in Scope if other != scope]
        narrow = Caller(trainer.user, scopes=others)
        where = path.lstrip("/").replace("{slug}", "a").replace("{number}", "1")
        answer = narrow.ask(method, f"v1/{where.replace('{action}', 'promote')}", "{")
        refused(answer, 403, f"needs a token with the scope {scope}.")
    assert {scope for *_, scope in operations()} == set(Scope)


def test_reading_needs_read_and_writing_never_does():
    for method, path, scope in operations():
        if "webhooks" in path:  # their addresses can contain secrets
            assert scope == Scope.ADMIN
        else:
            assert (scope == Scope.READ) == (method == "GET"), path


def test_an_expired_token_is_refused_with_its_date(trainer):
    past = timezone.now() - timedelta(days=1)
    old = Caller(trainer.user, expires_at=past)
    refused(old.get("projects"), 401, f"expired on {past:%Y-%m-%d}")
    later = Caller(trainer.user, expires_at=timezone.now() + timedelta(days=1))
    assert later.get("projects").status_code == 200


def test_a_token_for_one_project_sees_no_other(trainer):
    own, other = make_project(), make_project()
    limited = Caller(trainer.user, project=own)
    assert [p["slug"] for p in limited.get("projects").json()["items"]] == [own.slug]
    assert limited.get(f"projects/{own.slug}/tasks").status_code == 200
    for part in ("", "/tasks", "/rankings", "/members", "/guideline/versions"):
        refused(limited.get(f"projects/{other.slug}{part}"), 404, "another project")
    refused(limited.post("snapshots", {"project": other.slug}), 404, "another project")
    refused(limited.post("projects", {"name": "New"}), 403, "limited to one project")
    refused(limited.post(f"projects/{other.slug}/tasks", {"items": [lamp()]}), 404)
    Project.objects.filter(pk=own.pk).update(archived_at=timezone.now())
    assert limited.get("projects").json()["items"] == []


def test_a_repeated_request_gets_the_first_answer_and_has_no_second_effect(trainer):
    body, key = {"name": "Lamps"}, {KEY: "a"}
    first = trainer.post("projects", body, **key)
    again = trainer.post("projects", body, **key)
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    assert again["Idempotency-Replayed"] == "true" and "Idempotency-Replayed" not in first
    assert Project.objects.count() == 1
    refused(trainer.post("projects", {"name": "Other"}, **key), 422, "another request")
    assert "Lamps" not in IdempotentRequest.objects.get().body, (
        "a copy of the database reveals nothing"
    )
    other = Caller(trainer.user)
    assert other.post("projects", body, **key).json()["slug"] == "lamps-2", "keys are the token's"


def test_a_failed_request_leaves_its_key_free(trainer):
    refused(trainer.post("projects", {"name": ""}, **{KEY: "a"}), 422)
    assert not IdempotentRequest.objects.exists()
    assert trainer.post("projects", {"name": "Lamps"}, **{KEY: "a"}).status_code == 201
    refused(trainer.post("projects", {"name": "a"}, **{KEY: "x" * 256}), 400, "1 to 255")
    refused(trainer.post("projects", {"name": "x" * 2_700_000}, **{KEY: "b"}), 413, "2.5 MB")


@pytest.mark.django_db(transaction=True)
def test_concurrent_requests_with_a_key_have_one_effect():
    project = make_project()
    lead = Caller(make_member(project, Membership.Role.LEAD))

    def add():
        try:
            return lead.post("projects", {"name": "Lamps"}, **{KEY: "a"})
        finally:
            connection.close()

    answers = in_threads(*[add] * 4)
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.content for answer in answers}) == 1
    assert Project.objects.filter(name="Lamps").count() == 1
    assert sorted("Idempotency-Replayed" in answer for answer in answers) == [False] + [True] * 3


def test_keys_are_forgotten_after_a_day(trainer):
    from accounts.tasks import forget_old_keys

    trainer.post("projects", {"name": "Lamps"}, **{KEY: "a"})
    forget_old_keys()
    assert IdempotentRequest.objects.exists()
    IdempotentRequest.objects.update(created_at=timezone.now() - timedelta(hours=25))
    forget_old_keys()
    assert not IdempotentRequest.objects.exists()


def test_the_requests_of_a_token_per_minute_are_limited(trainer, settings, monkeypatch):
    settings.API_REQUESTS_A_MINUTE = 2
    now = timezone.now()
    monkeypatch.setattr("django.utils.timezone.now", lambda: now)
    first, second, third = (trainer.get("projects") for _ in range(3))
    assert (first["RateLimit-Limit"], first["RateLimit-Remaining"]) == ("2", "1")
    assert second["RateLimit-Remaining"] == "0" and 0 < int(second["RateLimit-Reset"]) <= 60
    refused(third, 429, "limit is 2 requests")
    assert 0 < int(third["Retry-After"]) <= 60
    assert Caller(trainer.user).get("projects").status_code == 200, "each token has its own limit"


def test_a_list_costs_the_same_queries_for_more_rows():
    from django.test.utils import CaptureQueriesContext

    project = make_project()
    lead = Caller(make_member(project, Membership.Role.LEAD))
    counts = []
    for start in (0, 5):
        items = [lamp(number) for number in range(start, start + 5)]
        lead.post(f"projects/{project.slug}/tasks", {"items": items})
        make_project()
        make_member(project)
        row = []
        for where in ("projects", *(f"projects/{project.slug}/{p}" for p in ("tasks", "members"))):
            lead.get(where)
            with CaptureQueriesContext(connection) as queries:
                assert lead.get(where).status_code == 200
            row.append(len(queries))
        counts.append(row)
    assert Task.objects.count() == 10 and counts[0] == counts[1]
    assert max(counts[0]) <= 8, counts

"""Tests of the API for projects, members, guidelines, tasks and rankings."""

import pytest

from accounts.models import AuditEntry, Role, Scope
from labeling.models import Membership, Project, Ranking, Task
from tests.api.caller import Caller, refused
from tests.labeling.world import make_member, make_project, make_task, make_user

pytestmark = pytest.mark.django_db

LEAD = Membership.Role.LEAD


@pytest.fixture
def project():
    return make_project()


@pytest.fixture
def lead(project):
    return Caller(make_member(project, LEAD))


def lamp(number=1, **more):
    return {
        "id": f"lamp-{number}",
        "messages": [{"role": "user", "content": f"Which lamp, {number}?"}],
        "responses": [{"text": "The tall one.", "model": "a"}, {"text": "Red.", "model": "b"}],
        **more,
    }


def test_a_lead_creates_and_changes_a_project_with_the_rules_of_the_pages():
    lead = Caller(make_user(Role.LEAD))
    created = lead.post("projects", {"name": "Lamps", "settings": {"rankings_per_task": 3}})
    assert created.status_code == 201 and created.json()["slug"] == "lamps"
    assert created.json()["settings"]["rankings_per_task"] == 3 and created.json()["leads"]
    change = {"description": "All lamps.", "settings": {"gold_percent": 10, "allow_ties": False}}
    changed = lead.ask("PATCH", "v1/projects/lamps", change).json()
    assert (changed["name"], changed["description"]) == ("Lamps", "All lamps.")
    project = Project.objects.get(slug="lamps")
    assert (project.gold_percent, project.allow_ties, project.rankings_per_task) == (10, False, 3)
    actions = set(AuditEntry.objects.values_list("action", flat=True))
    assert {"project added", "member added", "project settings changed"} <= actions
    wrong = lead.ask("PATCH", "v1/projects/lamps", {"settings": {"gold_percent": 51, "no": 1}})
    assert refused(wrong, 422)["errors"][0]["at"] == "settings.no"
    wrong = lead.ask("PATCH", "v1/projects/lamps", {"settings": {"gold_percent": 51}})
    assert refused(wrong, 422, "From 0 to 50")["errors"][0]["at"] == "gold_percent"
    refused(Caller(make_user()).post("projects", {"name": "Own"}), 403, "Only leads")
    assert lead.post("projects/lamps/archive").json()["archived_at"]
    refused(lead.ask("PATCH", "v1/projects/lamps", change), 403, "archived")
    assert lead.post("projects/lamps/restore").json()["archived_at"] is None


def test_members_are_added_changed_and_removed(project, lead):
    where, person = f"projects/{project.slug}/members", make_user()
    one = f"v1/{where}/{person.username}"
    assert lead.ask("PUT", one, {"role": "reviewer"}).json()["role"] == "reviewer"
    refused(lead.ask("PUT", one, {"role": "trainer"}), 409, "Only trainers of the project")
    refused(lead.ask("PUT", f"v1/{where}/nobody", {"role": "reviewer"}), 404, "Nobody")
    assert [m["username"] for m in lead.get(where).json()["items"]] == [
        lead.user.username,
        person.username,
    ]
    assert lead.ask("DELETE", one).status_code == 204
    refused(lead.ask("DELETE", f"v1/{where}/{lead.user.username}"), 409, "needs a lead")
    assert not project.memberships.filter(user=person).exists()


def test_a_guideline_is_drafted_and_published(project, lead):
    where = f"projects/{project.slug}/guideline/versions"
    new = {"text": "Be kind.", "criteria": [{"name": "honesty", "meaning": "It is true."}]}
    draft = lead.post(where, new).json()
    assert draft["state"] == "draft" and draft["criteria"][0]["scale"] == 5
    refused(lead.post(where, new), 409, "already a draft")
    reviewer = Caller(make_member(project))
    refused(reviewer.get(f"{where}/{draft['number']}"), 404)
    published = lead.post(f"{where}/{draft['number']}/publish").json()
    assert published["state"] == "published"
    assert reviewer.get(f"{where}/{draft['number']}").json()["text"] == "Be kind."
    twice = {**new, "criteria": [*new["criteria"] * 2]}
    assert refused(lead.post(where, twice), 422, "already")["errors"][0]["at"] == "criteria.1.name"


def test_tasks_are_added_once_and_listed_in_pages(project, lead):
    where = f"projects/{project.slug}/tasks"
    body = {"items": [lamp(n) for n in range(5)]}
    first, again = (lead.post(where, body).json() for _ in range(2))
    assert first["tasks"] == {"read": 5, "new": 5} and again["tasks"] == {"read": 5, "new": 0}
    page = lead.get(f"{where}?limit=3").json()
    assert [task["external_id"] for task in page["items"]] == ["lamp-0", "lamp-1", "lamp-2"]
    rest = lead.get(f"{where}?limit=3&after={page['next']}").json()
    assert len(rest["items"]) == 2 and rest["next"] is None
    [task] = lead.get(f"{where}?external_id=lamp-4").json()["items"]
    assert [r["text"] for r in task["responses"]] == ["The tall one.", "Red."]
    one = f"{where}/{task['id']}"
    assert lead.post(f"{one}/withdraw", {"reason": "Wrong."}).json()["withdrawn"]
    assert lead.post(f"{one}/restore").json() == {**task, "withdrawn": False}


def test_invalid_tasks_are_refused_with_their_positions_and_nothing_is_stored(project, lead):
    where = f"projects/{project.slug}/tasks"
    items = [lamp(1), lamp(2, responses=[{"model": "a"}] * 2), {"messages": []}]
    errors = refused(lead.post(where, {"items": items}), 422)["errors"]
    assert [error["at"] for error in errors] == ["items.1", "items.2"]
    assert not Task.objects.exists()
    refused(lead.post(where, {"items": [lamp()] * 1001}), 422, "1000 items")
    assert lead.post(where, {"items": [lamp(1, meta={"a": "\x00"})]}).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_rankings_are_read_from_where_the_last_page_ended():
    from django.db import connection, transaction

    from tests.labeling.world import in_threads
    from tests.reward.factory import make_prompt, rank
    from tests.reward.factory import make_task as make_unslotted

    project = make_project()
    lead, reviewers = Caller(make_member(project, LEAD)), [make_member(project) for _ in range(3)]
    task = make_unslotted(make_prompt(project), texts=("a", "b", "c"))
    first = rank(task, reviewers[0])
    where = f"projects/{project.slug}/rankings"
    page = lead.get(f"{where}?limit=1").json()
    assert [r["id"] for r in page["items"]] == [first.pk] and page["next"] is None
    assert page["items"][0]["reviewer"] == reviewers[0].username
    with transaction.atomic():
        second = rank(task, reviewers[1])  # not committed yet, with a lower id than the third

        def other_transaction():
            third = rank(task, reviewers[2])
            listed = lead.get(f"{where}?after={first.pk}").json()["items"]
            connection.close()
            return third, listed

        [(third, listed)] = in_threads(other_transaction)
    assert listed == [], "the third could hide the second from a reader who continues after it"
    listed = lead.get(f"{where}?after={first.pk}").json()["items"]
    assert [r["id"] for r in listed] == [second.pk, third.pk]
    Ranking.objects.filter(pk=first.pk).update(superseded_at=first.created_at)
    assert first.pk not in [r["id"] for r in lead.get(where).json()["items"]]
    assert first.pk in [r["id"] for r in lead.get(f"{where}?superseded=true").json()["items"]]
    since = third.created_at.isoformat().replace("+", "%2B")
    assert [r["id"] for r in lead.get(f"{where}?since={since}").json()["items"]] == [third.pk]
    refused(lead.get(f"{where}?since=2026-01-01T00:00:00"), 422, "time zone")


def test_reviewers_and_strangers_read_neither_tasks_nor_rankings(project):
    make_task(project)
    reviewer, stranger = Caller(make_member(project)), Caller(make_user(Role.LEAD))
    for where in ("tasks", "rankings", "members"):
        refused(reviewer.get(f"projects/{project.slug}/{where}"), 403, "Only leads")
        refused(stranger.get(f"projects/{project.slug}/{where}"), 404)
    assert reviewer.get("projects").json()["items"][0]["slug"] == project.slug
    assert stranger.get("projects").json()["items"] == []
    refused(reviewer.post(f"projects/{project.slug}/tasks", {"items": [lamp()]}), 403)
    assert Scope.LABEL in reviewer.token.scopes

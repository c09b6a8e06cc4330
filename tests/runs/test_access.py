"""Tests of access to the runs of a project, and of the filters of the list of runs."""

import pytest

from accounts.models import Role, User
from runs.models import RunEvent, State
from tests.reward.factory import join, make_project, make_user
from tests.runs.test_lifecycle import in_state

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]

PAGES = ["/runs/{}/", "/runs/{}/live", "/runs/{}/log"]


@pytest.fixture
def lead() -> User:
    return make_user(Role.LEAD)


@pytest.fixture
def own(lead):
    project = make_project(name="Lamps")
    join(project, lead, "lead")
    return project


@pytest.fixture
def foreign(lead):
    """Return a project in which the lead is only a reviewer."""
    project = make_project(name="Secrets")
    join(project, lead)
    return project


def statuses(client, run) -> set[int]:
    return {client.get(page.format(run.pk)).status_code for page in PAGES}


def test_a_lead_sees_the_runs_of_the_projects_they_lead_and_no_others(client, lead, own, foreign):
    client.force_login(lead)
    assert statuses(client, in_state(State.RUNNING, project=own)) == {200}
    assert statuses(client, in_state(State.RUNNING, project=foreign)) == {404}
    assert statuses(client, in_state(State.RUNNING, project=make_project())) == {404}
    assert statuses(client, in_state(State.RUNNING)) == {404}


def test_a_trainer_and_an_administrator_see_every_run(client, foreign):
    superuser = make_user()
    User.objects.filter(pk=superuser.pk).update(is_superuser=True)
    for user in (make_user(Role.TRAINER), superuser):
        client.force_login(user)
        assert statuses(client, in_state(State.RUNNING, project=foreign)) == {200}
        assert statuses(client, in_state(State.RUNNING)) == {200}


def test_leading_a_project_without_the_role_shows_no_runs(client, own):
    reviewer = make_user()
    join(own, reviewer, "lead")
    client.force_login(reviewer)
    assert statuses(client, in_state(State.RUNNING, project=own)) == {403}


def test_an_archived_project_hides_its_runs_from_leads(client, lead, own):
    run = in_state(State.RUNNING, project=own)
    own.archived_at = run.created_at
    own.save()
    client.force_login(lead)
    assert statuses(client, run) == {404}
    assert run not in client.get("/runs/").context["page"]


def test_the_list_shows_a_lead_only_runs_of_their_projects(client, lead, own, foreign):
    run, _, _ = (in_state(State.RUNNING, project=project) for project in (own, foreign, None))
    client.force_login(lead)
    page = client.get("/runs/")
    assert list(page.context["page"]) == [run]
    assert "Secrets" not in page.text


def test_the_poll_endpoint_gives_no_events_to_people_outside_the_project(client, lead, foreign):
    run = in_state(State.RUNNING, project=foreign)
    RunEvent.objects.create(
        run=run, number=1, at=run.created_at, event="message", data={"text": "private words"}
    )
    client.force_login(lead)
    answer = client.get(f"/runs/{run.pk}/live")
    assert (answer.status_code, "private words" in answer.text) == (404, False)


def test_only_trainers_see_the_runs_of_a_deleted_project(own):
    run = in_state(State.FAILED, project=own)
    own.delete()
    run.refresh_from_db()
    assert run.project is None


# --- filters --------------------------------------------------------------------------------------


@pytest.fixture
def listed(client):
    client.force_login(make_user(Role.TRAINER))

    def titles(query: str = "") -> list[str]:
        return [run.title for run in client.get(f"/runs/?{query}").context["page"]]

    return titles


def test_the_list_filters_by_project(listed, own, foreign):
    for project in (own, foreign, None):
        in_state(State.FAILED, project=project, title=str(project))
    assert listed(f"project={own.slug}") == ["Lamps"]
    assert listed(f"project={own.slug}&state=queued") == []
    assert len(listed("project=nowhere")) == 3


def test_a_lead_cannot_filter_by_a_project_they_do_not_lead(client, lead, own, foreign):
    run = in_state(State.FAILED, project=own)
    client.force_login(lead)
    page = client.get(f"/runs/?project={foreign.slug}")
    assert list(page.context["page"]) == [run]
    assert not page.context["filtered"]


def test_the_list_finds_runs_by_name_number_and_person(listed):
    anna = make_user(Role.TRAINER)
    first = in_state(State.FAILED, title="Long training", created_by=anna)
    in_state(State.FAILED, title="Sampling")
    assert listed("q=LONG") == ["Long training"]
    assert listed(f"q=%23{first.pk}") == listed(f"q={first.pk}") == ["Long training"]
    assert listed(f"q={anna.username}") == ["Long training"]
    assert listed("q=COUNT") == ["Sampling", "Long training"], "the title of their kind"
    assert listed("q=nothing") == []
    assert listed("q=%25") == []


@pytest.mark.parametrize("text", ["%C2%B2", "9" * 30, "9" * 4301, "#"])
def test_unusual_searches_do_not_fail(listed, text):
    in_state(State.FAILED, title="Sampling")
    assert listed(f"q={text}") in ([], ["Sampling"])

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounts.models import Role, User
from runs import execution
from runs.models import Run, State
from tests.reward.factory import make_project
from tests.runs.test_lifecycle import in_state

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]


def runs(*words: str) -> str:
    out = StringIO()
    call_command("runs", *words, stdout=out)
    return out.getvalue()


def test_runs_are_listed_newest_first_and_filtered():
    first, second = in_state(State.FAILED, error="It broke."), in_state(State.QUEUED)
    lines = runs("list").splitlines()
    assert [line.split()[0] for line in lines] == [f"#{second.pk}", f"#{first.pk}"]
    assert "It broke." in lines[1]
    assert runs("list", "--state", "failed").splitlines() == [lines[1]]
    assert len(runs("list", "--limit", "1").splitlines()) == 1
    assert json.loads(runs("list", "--kind", "counting", "--state", "queued", "--json"))["run"] == (
        second.pk
    )


def test_runs_can_be_listed_by_project_and_name():
    project = make_project()
    mine = in_state(State.FAILED, project=project, title="Long training")
    in_state(State.FAILED, title="Long sampling")
    listed = json.loads(runs("list", "--project", project.slug, "--json"))
    assert (listed["run"], listed["project"]) == (mine.pk, project.slug)
    assert len(runs("list", "--search", "long").splitlines()) == 2
    assert "No run matches." in runs("list", "--search", "short")


def test_showing_a_run_exits_with_a_status_for_its_outcome(begin):
    run = execution.run_now(begin(send=False).pk)
    assert json.loads(runs("show", str(run.pk), "--json"))["result"] == run.result
    assert "succeeded" in runs("show", str(run.pk))
    with pytest.raises(SystemExit) as ended:
        runs("show", str(in_state(State.FAILED).pk))
    assert ended.value.code == 2


def test_a_run_can_be_watched_until_it_ends(begin):
    run = execution.run_now(begin(total=2, send=False).pk)
    lines = runs("watch", str(run.pk)).splitlines()
    assert lines[0] == "Starting the recipe"
    assert lines[1].startswith("step 1 of 2")
    assert "succeeded" in lines[-1]


def test_a_run_can_be_cancelled_and_resumed():
    run = in_state(State.QUEUED)
    assert "is cancelled" in runs("cancel", str(run.pk))
    with pytest.raises(CommandError, match=r"has already ended \(cancelled\)"):
        runs("cancel", str(run.pk))
    runs("requeue", str(run.pk))
    run.refresh_from_db()
    assert run.state == State.QUEUED
    with pytest.raises(CommandError, match="Only a failed or cancelled run"):
        runs("requeue", str(run.pk))
    running = in_state(State.RUNNING)
    assert "is being cancelled" in runs("cancel", str(running.pk))
    with pytest.raises(CommandError, match="is already being cancelled"):
        runs("cancel", str(running.pk))


def test_a_missing_run_is_named():
    with pytest.raises(CommandError, match="There is no run 4711"):
        runs("show", "4711")
    assert "Nothing has run yet." in runs("list")


def test_the_admin_shows_runs_and_events_but_changes_nothing(client):
    client.force_login(User.objects.create_user("t", role=Role.TRAINER, all_projects=True))
    run = in_state(State.QUEUED, title="Mine")
    run.events.create(number=1, at=run.created_at, event="message", data={"text": "hello"})
    assert "Mine" in client.get("/admin/runs/run/").content.decode()
    page = client.get(f"/admin/runs/run/{run.pk}/change/").content.decode()
    assert f"?run__id={run.pk}" in page
    events = client.get(f"/admin/runs/runevent/?run__id={run.pk}").content.decode()
    assert "hello" in events
    assert client.get("/admin/runs/run/add/").status_code == 403
    assert client.post(f"/admin/runs/run/{run.pk}/change/", {"title": "Other"}).status_code == 403
    assert client.post(f"/admin/runs/run/{run.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Run.objects.get().title == "Mine"


def test_runs_are_tagged_archived_and_restored_with_the_command():
    run, other = in_state(State.FAILED), in_state(State.FAILED)
    assert (
        runs("note", str(run.pk), "--tags", "keep, long")
        == f"Run {run.pk} has the tags keep, long.\n"
    )
    runs("note", str(run.pk), "--notes", "Better data.")
    run.refresh_from_db()
    assert (run.tags, run.notes) == (["keep", "long"], "Better data.")
    assert json.loads(runs("list", "--tag", "keep", "--json"))["run"] == run.pk
    assert runs("archive", str(run.pk)) == f"Run {run.pk} is archived.\n"
    assert json.loads(runs("list", "--json"))["run"] == other.pk
    assert json.loads(runs("list", "--archived", "--json"))["run"] == run.pk
    assert runs("unarchive", str(run.pk)) == f"Run {run.pk} is not archived.\n"
    assert "No run matches." in runs("list", "--archived")


def test_the_command_refuses_long_tags_and_runs_that_have_not_ended():
    run = in_state(State.QUEUED)
    for words, sentence in (
        (["archive"], "has not ended"),
        (["note"], "--tags, --notes or both"),
        (["note", "--tags", "x" * 41], "The maximum is 40"),
    ):
        with pytest.raises(CommandError, match=sentence):
            runs(words[0], str(run.pk), *words[1:])

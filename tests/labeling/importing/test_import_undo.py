"""Tests of undoing an import that nobody has worked with."""

import io
import json

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from accounts.models import AuditEntry, Role
from labeling.importing import undoing
from labeling.models import FileImport, Finding, Prompt, Ranking, Response, Slot, Task
from labeling.queue import slots
from labeling.queue.tasks import add_task
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.clients import signed_in
from tests.labeling.importing.file_imports import work
from tests.labeling.importing.test_findings import LEAK
from tests.labeling.importing.test_import import run
from tests.labeling.pages.test_pages_data import imported, line
from tests.labeling.pages.test_pages_project import make_lead
from tests.labeling.world import key, make_member, make_project, make_task, make_user, one_each

pytestmark = pytest.mark.django_db
RANKED = {"rankings": [{"reviewer": "ada", "tiers": [[0], [1]]}]}
TABLES = (Prompt, Response, Task, Slot, Ranking, Finding)


@pytest.fixture(autouse=True)
def folder(settings, tmp_path):
    settings.UPLOADS_DIR = tmp_path / "uploads"


def counts():
    return [table.objects.count() for table in TABLES]


def undone(client, project):
    file_import = FileImport.objects.latest("pk")
    url = reverse("project-import-preview", args=[project.slug, file_import.key])
    client.post(url, {"undo": "1"})
    work()
    return client.get(url).content.decode()


def test_undoing_an_import_keeps_earlier_data(project):
    make_task(project)
    before = counts()
    client = signed_in(make_lead(project))
    imported(client, project, line(**RANKED) + line("Why?") + line("So?", ["x", LEAK, "z"]))
    assert counts() != before
    page = undone(client, project)
    assert "This import was undone" in page and counts() == before
    assert "First prompts of the file" in page and "as reviewers see them" not in page
    assert FileImport.objects.get().state == "undone"
    assert AuditEntry.objects.filter(action="import undone").exists()
    assert ">Undo this import</button>" not in page


def test_the_same_file_can_be_imported_again_after_it_was_undone(project):
    client = signed_in(make_lead(project))
    imported(client, project, line(**RANKED))
    first = counts()
    undone(client, project)
    imported(client, project, line(**RANKED))
    assert counts() == first


def test_an_import_whose_task_was_ranked_is_kept(project):
    client = signed_in(make_lead(project))
    imported(client, project, line())
    reviewer = make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    before = counts()
    assert "has one of its tasks open" in undone(client, project)
    recording.submit(
        slot_id=slot.pk,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content(one_each(slot.task)),
    )
    page = undone(client, project)
    assert "that were not part of the import" in page and ">Undo this import</button>" not in page
    assert counts()[:4] == before[:4] and FileImport.objects.get().state == "imported"


def test_data_used_by_other_tasks_is_kept(project):
    client = signed_in(make_lead(project))
    imported(client, project, line(responses=["x", "y", "z"]))
    responses = Response.objects.filter(text__in=["x", "y"])
    add_task(project=project, prompt=Prompt.objects.get(), responses=list(responses))
    undone(client, project)
    assert set(Response.objects.values_list("text", flat=True)) == {"x", "y"}
    assert Prompt.objects.count() == 1 and Task.objects.count() == 1


def test_only_the_ranking_of_an_existing_task_is_undone(project):
    client = signed_in(make_lead(project))
    imported(client, project, line())
    imported(client, project, line(**RANKED))
    assert Ranking.objects.count() == 1
    undone(client, project)
    assert not Ranking.objects.exists() and Task.objects.count() == 1
    assert not Slot.objects.exclude(ranking=None, reviewer=None).exists()
    slot = slots.claim(project=project, reviewer=make_member(project))
    assert slot is not None


def test_an_import_that_a_snapshot_may_hold_is_kept(project):
    from reward.preferences.filters import SnapshotFilter
    from reward.preferences.snapshots import freeze

    client = signed_in(make_lead(project))
    content = "".join(line(f"{n}?", **RANKED) for n in range(4))
    imported(client, project, content)
    freeze(project=project, filter=SnapshotFilter(), by=None)
    before = counts()
    assert "was frozen after this import" in undone(client, project)
    assert counts() == before


def test_only_leads_of_the_project_undo_an_import(project):
    imported(signed_in(make_lead(project)), project, line())
    url = reverse("project-import-preview", args=[project.slug, FileImport.objects.get().key])
    assert signed_in(make_member(project)).post(url, {"undo": "1"}).status_code == 403
    assert signed_in(make_lead(make_project())).post(url, {"undo": "1"}).status_code == 404
    work()
    assert FileImport.objects.get().state == "imported" and Task.objects.count() == 1
    assert signed_in(make_user(Role.TRAINER)).post(url, {"undo": "1"}).status_code == 302


def test_the_command_undoes_its_own_import(project, tmp_path):
    (path := tmp_path / "a.jsonl").write_text(line(**RANKED))
    text = run(path, "--project", project.slug)
    number = FileImport.objects.get().pk
    assert f"manage.py undo_import {number}" in text
    out = io.StringIO()
    call_command("undo_import", stdout=out)
    call_command("undo_import", number, dry_run=True, stdout=out)
    assert "a.jsonl" in out.getvalue() and "can be undone" in out.getvalue()
    assert Task.objects.count() == 1
    call_command("undo_import", number, stdout=out)
    assert "is undone" in out.getvalue() and not Task.objects.exists()
    with pytest.raises(CommandError, match="cannot be undone: undone"):
        call_command("undo_import", number)
    with pytest.raises(CommandError, match="There is no import 99999"):
        call_command("undo_import", 99999)


def test_a_dry_run_of_the_command_leaves_no_import(project, tmp_path):
    (path := tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "Q?", "response": "x"}))
    run(path, "--project", project.slug, "--dry-run")
    assert not FileImport.objects.exists()


def test_a_stopped_worker_leaves_an_import_that_was_not_undone(project):
    client = signed_in(make_lead(project))
    imported(client, project, line())
    url = reverse("project-import-preview", args=[project.slug, FileImport.objects.get().key])
    client.post(url, {"undo": "1"})
    FileImport.objects.update(attempt=3, heartbeat_at="2026-01-01T00:00Z")
    from labeling.importing import lifecycle

    lifecycle.reap()
    file_import = FileImport.objects.get()
    assert file_import.state == "imported" and "worker stopped" in file_import.problem
    assert undoing.obstacle(file_import) == "" and Task.objects.count() == 1

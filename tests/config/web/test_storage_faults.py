"""Tests of pages and commands with full or unusable folders."""

import sys
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

import manage
from accounts.models import Role, User
from labeling.models import FileImport, Membership, Project
from reward.models import Snapshot
from tests.reward.factory import join, make_project, make_prompt, make_task, make_user, rank
from tests.reward.pages.test_pages import form
from tests.runs.test_faults import files_limited_to

READ_ONLY = Path("/sys/tiebreak")


@pytest.fixture
def project(settings, tmp_path) -> Project:
    """Return a project with rankings to freeze."""
    settings.SNAPSHOTS_DIR, settings.UPLOADS_DIR = tmp_path / "snapshots", tmp_path / "uploads"
    project, reviewer = make_project(), make_user()
    for _ in range(2):
        rank(make_task(make_prompt(project)), reviewer)
    return project


@pytest.fixture
def trainer(client, project):
    user = User.objects.create_user("trainer", role=Role.TRAINER, all_projects=True)
    join(project, user, Membership.Role.LEAD)
    client.force_login(user)
    client.raise_request_exception = False
    return client


def freeze(client, project: Project):
    return client.post(f"/snapshots/new/?project={project.slug}", form(freeze="1"))


@pytest.mark.django_db
def test_a_full_disk_is_reported_on_the_page_and_nothing_is_saved(trainer, project, settings):
    with files_limited_to(100):
        page = freeze(trainer, project)
    assert page.status_code == 507
    text = page.content.decode()
    assert f"No space is left in {settings.SNAPSHOTS_DIR}" in text
    assert "Free some space" in text
    assert not Snapshot.objects.exists()
    assert not [path for path in settings.SNAPSHOTS_DIR.rglob("*") if path.is_file()]


@pytest.mark.django_db
def test_a_lead_who_reads_german_gets_the_whole_explanation_in_english(trainer, project):
    trainer.defaults["HTTP_ACCEPT_LANGUAGE"] = "de"
    with files_limited_to(100):
        page = freeze(trainer, project)
    body = page.text.partition("<main")[2]
    assert ' lang="en"' in body.partition(">")[0]
    assert "<h1>The server's storage has a problem</h1>" in body
    assert "507" in body


@pytest.mark.django_db
@pytest.mark.parametrize("folder", [READ_ONLY, Path(__file__) / "snapshots"])
def test_an_unusable_folder_is_reported_on_the_page(trainer, project, settings, folder):
    settings.SNAPSHOTS_DIR = folder
    page = freeze(trainer, project)
    assert page.status_code == 503
    assert str(folder.parent) in page.content.decode()


@pytest.mark.django_db
def test_a_full_disk_leaves_no_partial_upload(trainer, project, settings):
    file = SimpleUploadedFile("prompts.jsonl", b'{"prompt": "x"}\n' * 10_000)
    with files_limited_to(20_000):
        page = trainer.post(
            reverse("project-import", args=[project.slug]),
            {"file": file, "format": "auto", "encoding": "utf-8"},
        )
    assert page.status_code == 507
    assert "No space is left in " in page.content.decode()
    assert not list(settings.UPLOADS_DIR.iterdir())
    assert not FileImport.objects.exists()


@pytest.mark.django_db
def test_reviewers_see_no_folder_names(rf):
    from config.web.faults import StorageFaults

    request = rf.get("/")
    request.user = make_user()
    error = PermissionError(13, "Permission denied", "/srv/secret/file")
    page = StorageFaults(lambda request: None).process_exception(request, error)
    assert page.status_code == 503
    assert "/srv/secret" not in page.content.decode()
    assert "Contact an administrator" in page.content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_command_ends_with_a_line_and_no_traceback(project, settings, monkeypatch):
    settings.SNAPSHOTS_DIR = READ_ONLY
    monkeypatch.setattr(sys, "argv", ["manage.py", "snapshot", project.slug])
    with pytest.raises(SystemExit) as ended:
        manage.main()
    assert str(ended.value.code).startswith("tiebreak: ")
    assert str(READ_ONLY.parent) in str(ended.value.code)

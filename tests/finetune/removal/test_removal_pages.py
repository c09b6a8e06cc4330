"""Tests of erasing content and people and deleting projects, on pages and by command."""

from io import StringIO

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Role
from finetune.models import Model
from finetune.removal import deletion
from finetune.removal.deletion import TABLES, CannotDelete
from labeling.models import Membership, Project, Prompt, Ranking, Response, Slot
from labeling.projects import archiving
from labeling.queue import slots
from reward.models import Snapshot
from reward.preferences.snapshots import SnapshotFilter, freeze
from runs.models import Run, State
from tests.clients import signed_in
from tests.finetune.factory import laid_out, make_adapter, make_base, make_reward_model, make_run
from tests.labeling.world import make_member
from tests.labeling.world import make_project as make_guided_project
from tests.labeling.world import make_task as make_guided_task
from tests.reward.factory import make_prompt, make_task, make_user, rank

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_guided_project()


@pytest.fixture
def task(project):
    new_task = make_guided_task(project)
    rank(new_task, make_member(project), rationale="Because.")
    return new_task


@pytest.fixture
def lead(project):
    return make_member(project, Membership.Role.LEAD)


def erase_url(project, kind, pk):
    return reverse("erase-content", args=[project.slug, kind, pk])


# --- erasing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prompt", "response"])
def test_an_administrator_erases_after_typing_the_word(kind, project, task, admin):
    snapshot = freeze(project=project, filter=SnapshotFilter(), by=None)
    model = make_reward_model(snapshot)
    content = task.prompt if kind == "prompt" else task.responses.first()
    client, url = signed_in(admin), erase_url(project, kind, content.pk)
    page = client.get(url).content.decode()
    assert str(snapshot) in page and model.name in page and "Backups" in page
    assert client.post(url, {"typed": "yes"}).status_code == 422
    content.refresh_from_db()
    assert content.erased_at is None
    assert client.post(url, {"typed": "erase"}).status_code == 302
    content.refresh_from_db()
    assert content.erased_at is not None
    assert AuditEntry.objects.get(action=f"{kind} erased").user == admin


def test_only_administrators_erase_or_delete(project, task, lead):
    person = task.rankings.get().reviewer
    urls = [
        erase_url(project, "prompt", task.prompt_id),
        reverse("erase-person", args=[person.pk]),
        reverse("delete-project", args=[project.slug]),
    ]
    for url in urls:
        assert Client().post(url).status_code == 302
        for user in (lead, make_user(Role.TRAINER), make_member(project)):
            assert signed_in(user).get(url).status_code == 403
            assert signed_in(user).post(url, {"typed": "erase"}).status_code == 403
        root = signed_in(make_user(Role.TRAINER, is_superuser=True))
        assert root.put(url).status_code == 405
    assert Prompt.objects.get(pk=task.prompt_id).erased_at is None


def test_content_of_another_project_is_not_found(project, task, admin):
    client, other = signed_in(admin), make_guided_project()
    assert client.post(erase_url(other, "prompt", task.prompt_id)).status_code == 404
    assert client.post(erase_url(project, "task", task.pk)).status_code == 404


def test_a_person_is_erased_after_typing_their_name(task, admin):
    person = task.rankings.get().reviewer
    url = reverse("erase-person", args=[person.pk])
    assert signed_in(admin).post(url, {"typed": "someone"}).status_code == 422
    assert reverse("person", args=[person.pk]) in signed_in(admin).get(url).content.decode()
    assert signed_in(admin).post(url, {"typed": person.username}).url == reverse("people")
    person.refresh_from_db()
    assert person.username == f"erased-{person.pk}" and task.rankings.get().rationale == ""


def run_command(*arguments):
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_the_command_shows_the_content_and_erases_only_on_request(task, admin):
    prompt = ["erase", "--prompt", str(task.prompt_id), "--by", admin.username]
    assert "Nothing was erased." in run_command(*prompt, "--dry-run")
    assert Prompt.objects.get(pk=task.prompt_id).erased_at is None
    assert "Erased prompt" in run_command(*prompt, "--confirm")
    assert Prompt.objects.get(pk=task.prompt_id).erased_at is not None
    person = task.rankings.get().reviewer.username
    run_command("erase", "--person", person, "--by", admin.username, "--confirm")
    assert not task.rankings.get().reviewer.is_active


def test_the_command_and_the_page_refuse_the_same_requests(task, lead):
    for arguments in (
        ("--prompt", str(task.prompt_id), "--by", lead.username),
        ("--prompt", "0", "--by", lead.username),
        ("--response", "999999", "--by", "nobody"),
    ):
        with pytest.raises(CommandError):
            call_command("erase", *arguments, "--confirm")
    assert Prompt.objects.get(pk=task.prompt_id).erased_at is None


# --- archiving -----------------------------------------------------------------------------------


def test_an_archived_project_is_read_only_and_hidden_from_reviewers(project, lead):
    task, reviewer = make_guided_task(project), make_member(project)
    slots.claim(project=project, reviewer=reviewer)
    client, url = signed_in(lead), reverse("project-archive", args=[project.slug])
    assert client.get(url).status_code == 405
    assert signed_in(reviewer).post(url).status_code == 403
    assert client.post(url).status_code == 302
    assert not Slot.objects.filter(leased_until__isnull=False).exists()
    overview = reverse("project", args=[project.slug])
    page = client.get(overview).content.decode()
    assert "read-only" in page and "Restore project" in page
    assert client.get(reverse("project-data", args=[project.slug])).status_code == 200
    withdraw = reverse("project-withdraw", args=[project.slug, "task", task.pk])
    refused = client.post(withdraw)
    assert refused.status_code == 403
    assert "archived and read-only. Restore it first." in refused.content.decode()
    assert signed_in(reviewer).get(overview).status_code == 404
    assert signed_in(reviewer).get(reverse("review", args=[project.slug])).status_code == 404
    assert project.name in client.get(reverse("projects")).content.decode()
    assert project.name not in signed_in(reviewer).get(reverse("projects")).content.decode()
    restore = reverse("project-unarchive", args=[project.slug])
    assert signed_in(reviewer).post(restore).status_code == 404
    assert client.post(restore).status_code == 302
    assert signed_in(reviewer).get(overview).status_code == 200
    about = AuditEntry.objects.filter(action__in=["project archived", "project restored"])
    actions = about.order_by("id").values_list("action", "user")
    assert list(actions) == [("project archived", lead.pk), ("project restored", lead.pk)]


# --- deleting ------------------------------------------------------------------------------------


@pytest.fixture
def full(project, task, settings):
    """Create a project with a snapshot, runs with folders and models, and one that must survive."""
    snapshot = freeze(project=project, filter=SnapshotFilter(), by=None)
    model = make_reward_model(snapshot)
    adapter = make_adapter(make_base(project), snapshot)
    Run.objects.update(project=project)
    laid_out(model.run)
    neighbour = make_task(make_prompt(make_guided_project()))
    rank(neighbour, make_user())
    return snapshot, adapter


def test_a_project_is_deleted_with_everything_and_nothing_else(
    project, full, admin, settings, django_capture_on_commit_callbacks
):
    snapshot, _adapter = full
    archiving.archive(project=project, by=admin)
    url = reverse("delete-project", args=[project.slug])
    page = signed_in(admin).get(url).content.decode()
    assert "Rankings" in page and project.slug in page
    with django_capture_on_commit_callbacks(execute=True):
        assert signed_in(admin).post(url, {"typed": "nonsense"}).status_code == 422
        assert signed_in(admin).post(url, {"typed": project.slug}).status_code == 302
    assert not Project.objects.filter(pk=project.pk).exists()
    assert not snapshot.file.exists() and not any(settings.RUNS_DIR.iterdir())
    assert not Run.objects.exists() and not Model.objects.exists()
    assert Prompt.objects.count() == Ranking.objects.count() == 1
    assert Response.objects.count() == 3 and not Snapshot.objects.exists()
    entry = AuditEntry.objects.get(action="project deleted")
    assert entry.user == admin and entry.details["rankings"] == 1


def test_a_project_is_not_deleted_while_it_is_in_use(project, full, admin):
    _snapshot, adapter = full
    with pytest.raises(CannotDelete, match="Archive"):
        deletion.delete(project=project, by=admin)
    archiving.archive(project=project, by=admin)
    run = make_run("reward", project=project, state=State.QUEUED, finished_at=None)
    project.refresh_from_db()
    with pytest.raises(CannotDelete, match="not finished"):
        deletion.delete(project=project, by=admin)
    run.delete()
    Model.objects.filter(pk=adapter.pk).update(state="promoted")
    with pytest.raises(CannotDelete, match="answer requests"):
        deletion.delete(project=project, by=admin)
    stranger = Model.objects.create(
        project=make_guided_project(), name="child", base=adapter.base, parent=adapter
    )
    with pytest.raises(CannotDelete, match="is based on a model"):
        deletion.delete(project=project, by=admin, allow_promoted=True)
    assert Project.objects.filter(pk=project.pk).exists() and Ranking.objects.count() == 2
    stranger.delete()
    deletion.delete(project=project, by=admin, allow_promoted=True)
    assert not Project.objects.filter(pk=project.pk).exists()


def test_only_administrators_delete_projects(project, full, lead):
    archiving.archive(project=project, by=lead)
    with pytest.raises(CannotDelete, match="administrator"):
        deletion.delete(project=project, by=lead)
    assert Ranking.objects.count() == 2


def test_every_table_that_belongs_to_a_project_is_deleted():
    """Check that every new table is in finetune.removal.deletion.TABLES."""
    deleted = {model for model, _path in TABLES} | {Project}
    belonging = {
        model
        for model in apps.get_models()
        for field in model._meta.get_fields()
        if field.many_to_one or field.one_to_one
        if field.concrete and field.related_model in deleted
    }
    assert belonging - deleted == set()


def test_the_command_counts_archives_and_deletes(project, full):
    assert "Nothing was deleted." in run_command("delete_project", project.slug, "--dry-run")
    with pytest.raises(CommandError, match="--confirm"):
        call_command("delete_project", project.slug)
    assert "is archived" in run_command("delete_project", project.slug, "--archive")
    assert "is restored" in run_command("delete_project", project.slug, "--restore")
    with pytest.raises(CommandError, match="Archive"):
        call_command("delete_project", project.slug, "--confirm", project.slug)
    run_command("delete_project", project.slug, "--archive")
    assert "Deleted" in run_command("delete_project", project.slug, "--confirm", project.slug)
    assert not Project.objects.filter(pk=project.pk).exists()

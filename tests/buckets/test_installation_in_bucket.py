"""Snapshots, uploads, erasure, backups, moves and checks of an installation with an object store."""

import io
import json
import os
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts.models import Role
from buckets import files
from config import doctor, moving, stray_files
from config.backup import restoring, writing
from config.checks import DEPLOYMENT
from finetune.removal import deletion, erasing
from finetune.serving.names import served
from labeling.importing import lifecycle
from labeling.models import FileImport, Project, Prompt
from recipes.rundir import RunDir
from reward.run_files import put_snapshot
from runs import storage
from runs.models import Artifact, State
from runs.supervision import workspace
from tests.finetune.factory import make_adapter, make_base, make_run, make_snapshot
from tests.reward.factory import make_project, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def make_published_adapter(project):
    """Create a snapshot, and an adapter with a file of weights, as a successful run would."""
    snapshot = make_snapshot(project, prompts=3)
    adapter = make_adapter(make_base(project), snapshot)
    weights = Path(adapter.adapter_folder) / "adapter_model.safetensors"
    weights.write_bytes(os.urandom(2000))
    Artifact.objects.create(
        run=adapter.run, name=weights.name, path=storage.stored(weights), bytes=2000,
        sha256=storage.digest_of(weights, [weights]),
    )  # fmt: skip
    files.publish(workspace.run_dir_of(adapter.run).path)
    return adapter


def test_a_snapshot_is_used_on_a_machine_that_did_not_freeze_it(machines, tmp_path):
    snapshot = make_snapshot(make_project(), prompts=3)
    machines.lose("first")
    machines.move_to("second")
    run_dir = RunDir.create(tmp_path / "run", {})
    assert put_snapshot(snapshot, run_dir) == {"snapshot_hash": snapshot.content_hash}
    assert snapshot.location.is_file()


def test_a_snapshot_is_refused_if_it_cannot_be_stored(machines, settings):
    settings.STORAGE = type(machines.address)("s3", "absent", "x")
    with pytest.raises(Exception, match="s3://absent/x") as raised:
        make_snapshot(make_project(), prompts=3)
    assert "cannot be stored" in str(raised.value)


def test_an_uploaded_file_is_read_by_a_worker_on_another_machine(machines):
    project, lead = make_project(), make_user(Role.LEAD)
    row = json.dumps({"prompt": "Why?", "responses": [{"text": "a"}, {"text": "b"}]}).encode()
    file_import = lifecycle.receive([row + b"\n"], user=lead, project=project, name="a.jsonl")
    machines.lose("first")
    machines.move_to("second")
    token = lifecycle.claim(file_import.pk)
    assert lifecycle._fetch(file_import.pk) == ""
    from labeling.importing import process

    assert process.step(file_import.pk, token) == ""
    file_import.refresh_from_db()
    assert file_import.state == FileImport.State.READY, file_import.problem
    lifecycle.cancel(file_import)
    assert files.bucket().names("uploads") == []


def test_a_model_is_copied_to_a_machine_that_serves_it(machines):
    adapter = make_published_adapter(make_project())
    machines.lose("first")
    machines.move_to("second")
    storage.check(adapter.adapter)
    model = served(adapter)
    assert (Path(model.adapter) / "adapter_model.safetensors").stat().st_size == 2000
    storage.check(adapter.adapter, digests=True)


def test_an_altered_model_is_not_used(machines):
    adapter = make_published_adapter(make_project())
    name = f"runs/{adapter.run_id}"
    machines.move_to("second")
    (entry,) = files.bucket().require(name).files.values()
    files.bucket()._write(f"{name}/objects/{entry.parts[0]}", b"evil")
    with pytest.raises(storage.MissingFiles, match="altered"):
        storage.fetch(adapter.adapter)
    assert not Path(adapter.adapter_folder).exists()


def test_erased_content_disappears_from_the_storage_and_from_copies(machines):
    project = make_project()
    make_published_adapter(project)
    snapshot = project.snapshots.get()
    prompt = Prompt.objects.filter(project=project).first()
    text = prompt.messages[0]["content"].encode()
    run = make_run("dpo", project=project)
    folder = workspace.run_dir_of(run).path
    folder.mkdir()
    (folder / "log.txt").write_bytes(text)
    files.publish(folder)
    machines.move_to("second")
    files.fetch(folder.parents[2] / "second" / "runs" / str(run.pk))
    machines.move_to("third")
    erasing.erase(content=prompt, by=make_user(is_superuser=True))
    snapshot.refresh_from_db()
    assert files.bucket().names("snapshots") == [f"snapshots/{snapshot.path}"]
    bucket = files.bucket()
    entry = bucket.require(f"runs/{run.pk}").files["log.txt"]
    assert text not in b"".join(bucket.parts(f"runs/{run.pk}", entry))
    second = machines.move_to("second")
    assert (second / "runs" / str(run.pk) / "log.txt").read_bytes() == text
    call_command("clean_storage", stdout=StringIO())
    assert not (second / "runs" / str(run.pk)).exists()


def test_a_deleted_project_leaves_nothing_in_the_storage(machines):
    project = make_project()
    adapter = make_published_adapter(project)
    adapter.run.project = project
    adapter.run.save()
    Project.objects.filter(pk=project.pk).update(archived_at=timezone.now())
    project.refresh_from_db()
    deletion.delete(project=project, by=make_user(is_superuser=True))
    assert [name for root in files.ROOTS for name in files.bucket().names(root)] == []


def test_what_no_row_names_is_listed_and_deleted_after_an_hour(machines, monkeypatch):
    snapshot = make_snapshot(make_project(), prompts=3)
    stray = machines.move_to("first") / "runs" / "999"
    stray.mkdir()
    (stray / "x").write_text("x")
    files.publish(stray)
    out = StringIO()
    call_command("clean_storage", stdout=out)
    assert "0 deleted" in out.getvalue()
    monkeypatch.setattr(stray_files, "MIN_AGE", timedelta(0))
    call_command("clean_storage", "--dry-run", stdout=out)
    assert files.bucket().names("runs") == ["runs/999"]
    call_command("clean_storage", stdout=out)
    assert files.bucket().names("runs") == []
    assert files.bucket().names("snapshots") == [f"snapshots/{snapshot.path}"]


def test_a_backup_contains_the_files_of_the_storage_and_is_published_again(machines, settings):
    adapter = make_published_adapter(make_project())
    machines.lose("first")
    machines.move_to("second")
    stream = io.BytesIO()
    assert writing.measure().files == 2
    account = writing.write(stream)
    assert (account.files, account.problems) == (2, [])
    stream.seek(0)
    assert restoring.verify(stream).files == 2
    with pytest.raises(restoring.BackupError):
        restoring.require_empty()
    files.fetch(workspace.run_dir_of(adapter.run).path)
    settings.STORAGE = type(machines.address)("s3", "tiebreak", f"{machines.address.prefix}-b")
    restoring._publish()
    assert files.bucket().names("runs") == [f"runs/{adapter.run_id}"]


def test_a_missing_bundle_is_a_problem_of_a_backup_and_for_the_doctor(machines, monkeypatch):
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 0)
    adapter = make_published_adapter(make_project())
    assert list(doctor.examine()) == []
    machines.move_to("second")
    assert list(doctor.examine()) == []
    files.bucket().remove(f"runs/{adapter.run_id}")
    problems = {problem.about for problem in doctor.examine(digests=False)}
    assert f"runs/{adapter.run_id}" in problems
    entry = next(iter(files.bucket().require(f"snapshots/{adapter.snapshot.path}").files.values()))
    files.bucket()._write(f"snapshots/{adapter.snapshot.path}/objects/{entry.parts[0]}", b"x")
    sentences = [problem.sentence for problem in doctor.bundles(digests=True)]
    assert any("altered" in sentence for sentence in sentences)


def move(*arguments: str) -> str:
    out = StringIO()
    call_command("move_storage", *arguments, stdout=out)
    return out.getvalue()


def test_an_installation_moves_from_folders_to_a_bucket_and_back(machines, settings, tmp_path):
    settings.STORAGE = None
    adapter = make_published_adapter(make_project())
    target = str(machines.address)
    assert "would be copied" in move(target, "--dry-run")
    bucket = moving.storage_at(target)
    assert bucket.names("runs") == []
    assert "2 runs, snapshots and uploads" in move(target)
    assert "were copied and verified" in move(target), "a second time, as after an interruption"
    settings.STORAGE = machines.address
    machines.lose("first")
    second = machines.move_to("second")
    storage.fetch(adapter.adapter)
    storage.check(adapter.adapter, digests=True)
    assert "were copied" in move(f"{target}-b")
    assert "were copied" in move(f"file://{tmp_path}/back", "--from", f"{target}-b")
    weights = "adapter_model.safetensors"
    there = tmp_path / "back" / "runs" / str(adapter.run_id) / "output" / weights
    assert there.read_bytes() == (Path(adapter.adapter_folder) / weights).read_bytes()
    assert (tmp_path / "back" / "snapshots" / adapter.snapshot.path).is_file()
    assert second.is_dir()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ftp://x/y"], "supported protocol"),
        (["s3://key:secret@bucket/x"], "credentials"),
        (["file:///tmp/x", "--from", "folders"], "Both are local folders"),
        (["s3://absent/x", "--from", "folders"], "s3://absent/x"),
    ],
)
def test_a_move_that_is_not_possible_is_refused_with_a_reason(machines, arguments, sentence):
    make_snapshot(make_project(), prompts=2)
    with pytest.raises(CommandError, match=sentence) as raised:
        move(*arguments)
    assert "secret" not in str(raised.value)


def test_files_do_not_move_while_runs_are_in_progress(machines):
    make_run(state=State.RUNNING, finished_at=None, lease_expires_at="2026-01-01T00:00Z")
    with pytest.raises(CommandError, match="Stop the workers"):
        move(str(machines.address))


def test_the_deployment_check_tries_the_storage(machines, settings):
    def found() -> list[str]:
        checks = run_checks(tags=[DEPLOYMENT], include_deployment_checks=True)
        return [check.msg for check in checks if check.id == "tiebreak.E011"]

    assert found() == []
    settings.STORAGE = type(machines.address)("s3", "absent", "x")
    assert ["s3://absent/x" in message for message in found()] == [True]


def test_a_page_says_that_the_storage_does_not_answer(machines, client, s3_server):
    run = make_run()
    client.force_login(make_user(Role.TRAINER, is_superuser=True))
    s3_server.go_down()
    try:
        response = client.get("/runs/disk/")
    finally:
        s3_server.come_back()
    assert response.status_code == 503
    assert "does not answer" in response.text
    assert run.pk

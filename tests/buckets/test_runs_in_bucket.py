"""Runs whose files are in an object store, on machines that share nothing else but the database."""

import threading
import time
from pathlib import Path

import pytest

from accounts.models import Role
from buckets import cache, files
from recipes.training import checkpoints
from runs import downloads, execution, lifecycle, services
from runs import kinds as run_kinds
from runs.disk import cleaning
from runs.models import Run, State
from runs.supervision import publishing, supervisor, workspace
from tests.reward.factory import make_user
from tests.runs import kinds
from tests.runs.test_supervisor import digest_of

pytestmark = pytest.mark.django_db(transaction=True)


def begin(**config) -> Run:
    inputs = {"word": "hello"}
    return services.start(kinds.COUNTING.name, config, None, inputs=inputs, send=False)


def attempt(run: Run) -> Run:
    """Make one attempt on this machine."""
    lease = lifecycle.claim(run.pk, supervisor.owner())
    assert lease
    supervisor.supervise(lease)
    run.refresh_from_db()
    return run


def tar_of(run: Run) -> bytes:
    return b"".join(downloads.archive(run, name="run"))  # type: ignore[arg-type]


@pytest.fixture
def no_uploads_of_checkpoints(monkeypatch):
    """Leave only the copies that are made before and after an attempt."""
    monkeypatch.setattr(publishing.CheckpointUploads, "poll", lambda uploads: None)


@pytest.mark.usefixtures("no_uploads_of_checkpoints")
def test_a_run_succeeds_with_its_results_in_the_storage(machines):
    run = execution.run_now(begin(total=4).pk)
    assert (run.state, run.error) == (State.SUCCEEDED, "")
    manifest = files.bucket().require(f"runs/{run.pk}")
    assert {"run.json", "data/words.txt", "events.jsonl", "output/count.json"} <= set(
        manifest.files
    )
    assert manifest.token == run.fencing_token
    assert ".lock" not in manifest.files
    assert files.bucket().problem_of(f"runs/{run.pk}") is None


def test_another_machine_continues_from_the_checkpoint_of_a_lost_one(machines):
    run = attempt(begin(total=6, trouble="again", at=5))
    assert run.state == State.QUEUED
    machines.lose("first")
    second = machines.move_to("second")
    assert services.workspace.has_checkpoint(workspace.run_dir_of(run))
    run = attempt(run)
    assert (run.state, run.error) == (State.SUCCEEDED, "")
    assert run.result["digest"] == digest_of(6), "no step was skipped or repeated"
    log = (second / "runs" / str(run.pk) / "log.txt").read_text()
    assert "counting from 4" in log
    assert list(run.events.values_list("number", flat=True)) == sorted(
        set(run.events.values_list("number", flat=True))
    )


def test_a_machine_whose_copy_is_older_continues_from_the_storage(machines):
    run = attempt(begin(total=6, trouble="again", at=3))
    machines.move_to("second")
    Run.objects.filter(pk=run.pk).update(attempt=0)
    run_dir = workspace.run_dir_of(run)
    files.fetch(run_dir.path, strict=True)
    (run_dir.checkpoints / "extra.txt").write_text("of the second machine")
    files.publish(run_dir.path, token=run.fencing_token)
    machines.move_to("first")
    assert not (workspace.run_dir_of(run).checkpoints / "extra.txt").exists()
    stale = workspace.run_dir_of(run).checkpoints / "stale.txt"
    stale.write_text("of an attempt that another machine has overtaken")
    run = attempt(run)
    assert run.state == State.SUCCEEDED
    assert not stale.exists()
    assert (workspace.run_dir_of(run).checkpoints / "extra.txt").exists()


@pytest.mark.usefixtures("no_uploads_of_checkpoints")
def test_a_run_survives_an_outage_of_the_storage_while_its_results_are_uploaded(
    machines, s3_server, monkeypatch
):
    monkeypatch.setattr(publishing, "PAUSE_SECONDS", 0.05)
    run = begin(total=4)
    bucket = files.bucket()
    write = bucket._write
    outages = []

    def interrupted(name: str, data: bytes) -> None:
        if b"digest" in data and not outages and (workspace.run_dir_of(run).output).exists():
            outages.append(name)
            s3_server.go_down()
            threading.Timer(1.0, s3_server.come_back).start()
        write(name, data)

    monkeypatch.setattr(bucket, "_write", interrupted)
    run = execution.run_now(run.pk)
    assert outages
    assert (run.state, run.error, run.attempt) == (State.SUCCEEDED, "", 1)
    assert run.artifacts.count() == 2
    assert bucket.problem_of(f"runs/{run.pk}") is None
    assert "counting from 0" in workspace.log_of(workspace.run_dir_of(run)).read_text()
    assert workspace.log_of(workspace.run_dir_of(run)).read_text().count("counting from") == 1


def test_a_run_fails_with_a_sentence_if_the_storage_refuses_access(machines, settings):
    settings.STORAGE = type(machines.address)("s3", "absent", "x")
    run = execution.run_now(begin(total=2).pk)
    assert run.state == State.FAILED
    assert "s3://absent/x" in run.error
    assert "continue the run" in run.error


def test_a_worker_that_lost_its_run_publishes_nothing(machines):
    run = attempt(begin(total=6, trouble="again", at=3))
    before = files.bucket().require(f"runs/{run.pk}")
    stale = lifecycle.Lease(run.pk, run.fencing_token)
    with pytest.raises(lifecycle.LeaseLost):
        publishing.publish(stale, workspace.run_dir_of(run))
    assert files.bucket().require(f"runs/{run.pk}") == before


def test_results_are_downloaded_on_a_machine_that_has_no_copy(machines, client):
    run = execution.run_now(begin(total=4).pk)
    here = tar_of(run)
    second = machines.move_to("second")
    assert not list((second / "runs").glob("[!.]*"))
    assert tar_of(run) == here
    assert not (workspace.run_dir_of(run).data).exists(), "only the results are copied"
    client.force_login(make_user(Role.TRAINER))
    machines.move_to("third")
    log = client.get(f"/runs/{run.pk}/log")
    assert b"counting from 0" in b"".join(log)  # type: ignore[arg-type]


def test_a_clean_up_deletes_checkpoints_and_results_in_the_storage(machines):
    run = execution.run_now(begin(total=4).pk)
    Run.objects.filter(pk=run.pk).update(archived_at=run.finished_at)
    machines.move_to("second")
    runs = list(Run.objects.all())
    outcome = cleaning.clean(runs, cleaning.Policy(published=True), by=None)
    assert (outcome.runs, outcome.skipped) == (1, [])
    assert outcome.bytes > 0
    names = files.bucket().require(f"runs/{run.pk}").files
    assert not [name for name in names if name.startswith(("checkpoints/", "output/count"))]
    assert "run.json" in names
    machines.move_to("first")
    assert cache.drop_outdated() == 1
    assert not workspace.run_dir_of(run).path.exists()


def test_copies_that_were_not_used_lately_make_room_for_new_ones(machines, settings, monkeypatch):
    settings.CACHE_GB = 1e-9
    old = execution.run_now(begin(total=2).pk)
    new = execution.run_now(begin(total=2).pk)
    assert cache.make_room(10) == 0, "both were used a moment ago"
    monkeypatch.setattr(cache, "KEPT_SECONDS", 0)
    waiting = begin(total=2)
    path = {run.pk: workspace.run_dir_of(run).path for run in (old, new, waiting)}
    (path[new.pk] / "notes.txt").write_text("written after the copy")
    path[waiting.pk].mkdir()
    time.sleep(0.01)
    assert cache.make_room(10) > 0
    assert [path[pk].exists() for pk in (old.pk, new.pk, waiting.pk)] == [False, True, True]
    files.fetch(path[old.pk])
    assert (path[old.pk] / "output" / "count.json").exists()


def test_a_download_that_breaks_off_changes_nothing_and_continues(machines, s3_server, monkeypatch):
    run = execution.run_now(begin(total=4).pk)
    machines.move_to("second")
    output = workspace.run_dir_of(run).output
    bucket, downloaded, outages = files.bucket(), [], []
    download = bucket.download

    def interrupted(name: str, entry, target: Path) -> None:
        if len(downloaded) == 1 and not outages:
            outages.append(name)
            s3_server.go_down()
        download(name, entry, target)
        downloaded.append(target)

    monkeypatch.setattr(bucket, "download", interrupted)
    with pytest.raises(files.StorageError):
        files.fetch(output)
    assert not output.exists()
    s3_server.come_back()
    files.fetch(output)
    assert len(downloaded) == 2, "each of the two files is downloaded once"
    assert (output / "parts" / "one.txt").read_text() == "one"


def test_a_page_waits_only_once_for_a_storage_that_does_not_answer(
    machines, s3_server, monkeypatch
):
    run = execution.run_now(begin(total=2).pk)
    machines.move_to("second")
    output, requests = workspace.run_dir_of(run).output, []
    manifest = files.bucket().manifest
    monkeypatch.setattr(
        files.bucket(), "manifest", lambda name: (requests.append(name), manifest(name))[1]
    )
    s3_server.go_down()
    try:
        files.fetch_quietly(output)
        files.fetch_quietly(output)
    finally:
        s3_server.come_back()
    assert len(requests) == 1
    assert not output.exists()
    monkeypatch.setattr(files, "_unavailable_until", {})
    files.fetch_quietly(output)
    assert output.exists()


def test_without_an_object_store_nothing_is_copied(machines, settings, tmp_path):
    settings.STORAGE = None
    run = execution.run_now(begin(total=2).pk)
    assert run.state == State.SUCCEEDED
    assert not (tmp_path / "first" / "runs" / files.STATE).exists()
    settings.STORAGE = machines.address
    assert files.bucket().names("runs") == []


def test_a_new_checkpoint_is_copied_while_the_recipe_runs(machines):
    run = begin(total=4)
    lease = lifecycle.claim(run.pk, "this machine")
    assert lease
    run_dir = workspace.prepare(run, run_kinds.get(run.kind))
    uploads = publishing.CheckpointUploads(lease, run_dir)
    uploads.poll()
    assert uploads.thread is None, "there is nothing new"
    with checkpoints.sealed(run_dir.checkpoints / "count-2.json") as draft:
        draft.write_text("{}")
    uploads.poll()
    uploads.wait()
    names = set(files.bucket().require(f"runs/{run.pk}").files)
    assert {"checkpoints/count-2.json", "checkpoints/.count-2.json.manifest"} <= names
    first = uploads.thread
    uploads.poll()
    assert uploads.thread is first, "the same checkpoint is not copied again"

"""Tests of the supervisor, which executes runs in this process."""

import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import connection
from django.db.models.functions import Now

from recipes.training import checkpoints
from runs import execution, kinds, lifecycle, services
from runs.models import Run, State
from runs.supervision import child, workspace
from tests.worker import database_url, wait_until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]


def digest_of(total: int) -> str:
    digest = ""
    for step in range(1, total + 1):
        digest = hashlib.sha256(f"{digest}{step}".encode()).hexdigest()
    return digest


def test_a_run_is_executed_to_its_result(begin, runs_dir):
    run = execution.run_now(begin(total=5, send=False).pk)
    assert (run.state, run.error) == (State.SUCCEEDED, "")
    assert run.result == {"accuracy": 0.75, "digest": digest_of(5)}
    assert (run.step, run.total_steps, run.attempt) == (5, 5, 1)
    spec = json.loads((runs_dir / str(run.pk) / "run.json").read_text())
    assert spec["kind"] == "counting"
    assert spec["run_id"] == run.pk
    assert spec["config"]["word"] == "hello"
    assert spec["inputs"] == {"word": "hello", "letters": 5}
    assert spec["versions"]["python"].startswith("3.")
    assert "counting from 0" in (runs_dir / str(run.pk) / "log.txt").read_text()


def test_published_files_are_recorded_with_their_hash(begin, runs_dir):
    run = execution.run_now(begin(total=3, send=False).pk)
    result = {artifact.name: artifact for artifact in run.artifacts.all()}
    assert set(result) == {"count.json", "parts"}
    written = (runs_dir / str(run.pk) / "output" / "count.json").read_bytes()
    assert result["count.json"].sha256 == hashlib.sha256(written).hexdigest()
    assert result["count.json"].bytes == len(written)
    digest = hashlib.sha256(b"one").hexdigest()
    listing = f"{digest}  parts/one.txt\n".encode()
    assert result["parts"].sha256 == hashlib.sha256(listing).hexdigest()


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("error", "The data is empty; choose another snapshot."),
        ("silent", "The recipe ended with status 3. Its last output: counting from 0"),
        ("traceback", "RuntimeError: it broke here"),
        ("memory", "the machine ran out of memory"),
        ("segfault", "SIGSEGV"),
        ("no output", "published no output"),
    ],
)
def test_a_failed_run_has_a_sentence_with_the_reason(begin, trouble, sentence):
    run = execution.run_now(begin(trouble=trouble, send=False).pk)
    assert run.state == State.FAILED
    assert sentence in run.error
    assert not run.artifacts.exists()


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("unpreparable", "The snapshot's file is gone."),
        ("bug", "Preparing failed: KeyError: 'oops'"),
        ("unfinishable", "Storing the results failed: ValueError: the report has no accuracy"),
    ],
)
def test_an_error_in_a_kinds_code_fails_the_run_and_is_rolled_back(begin, runs_dir, word, sentence):
    run = execution.run_now(begin(word=word, send=False).pk)
    assert (run.state, run.error, run.title) == (State.FAILED, sentence, "")
    assert not run.artifacts.exists()
    if word != "unpreparable":
        assert "Traceback" in (runs_dir / str(run.pk) / "log.txt").read_text()


def test_an_incomplete_preparation_is_repeated_after_a_crash(begin, runs_dir):
    run = begin(send=False)
    data = runs_dir / str(run.pk) / "data"
    data.mkdir(parents=True)
    (data / "half.parquet").write_text("torn")
    (data.parent / "run.json").write_text('{"from": "another start"}')
    run = execution.run_now(run.pk)
    assert run.state == State.SUCCEEDED
    assert [path.name for path in data.iterdir()] == ["words.txt"]


def test_a_damaged_run_json_is_named_with_a_remedy(begin, runs_dir):
    run = begin(send=False)
    workspace.prepare(run, kinds.get(run.kind))
    file = runs_dir / str(run.pk) / "run.json"
    file.write_text('{"kind": "coun')
    run = execution.run_now(run.pk)
    assert run.state == State.FAILED
    assert run.error.startswith(f"{file} is not valid JSON: ")
    assert run.error.endswith(". Start a new run with these settings.")


def test_a_run_is_prepared_once(begin, runs_dir):
    run = execution.run_now(begin(trouble="error", send=False).pk)
    marker = runs_dir / str(run.pk) / "data" / "words.txt"
    marker.write_text("kept")
    services.restart(run, None)
    execution.run_now(run.pk)
    assert marker.read_text() == "kept"


def test_a_resumed_run_continues_from_its_checkpoint_and_reports_it(begin):
    run = execution.run_now(begin(total=9, trouble="error", at=5, send=False).pk)
    assert run.state == State.FAILED
    Run.objects.filter(pk=run.pk).update(config={**run.config, "trouble": "none"})
    spec = workspace.run_dir_of(run).path / "run.json"
    spec.write_text(spec.read_text().replace('"trouble": "error"', '"trouble": "none"'))
    assert services.restart(run, None)
    run = execution.run_now(run.pk)
    assert (run.state, run.error, run.attempt) == (State.SUCCEEDED, "", 1)
    assert run.result["digest"] == digest_of(9)
    texts = [event.data["text"] for event in run.events.filter(event="message")]
    assert "Attempt 1 resumed from step 4." in texts


@pytest.mark.parametrize(
    ("left", "sentence"),
    [
        (
            ["parts/a/events.jsonl"],
            "Attempt 2 starts from the beginning: it has no usable checkpoint.",
        ),
        (
            ["parts/a/scores.npz", "parts/a/checkpoints/count-7", "parts/b/checkpoints/count-3"],
            "Attempt 2 resumed from step 3 of parts/b.",
        ),
        (
            ["parts/a/scores.npz", "parts/b/checkpoints/.tmp/count-9"],
            "Attempt 2 resumed from 1 finished part.",
        ),
    ],
)
def test_a_run_resumed_inside_a_part_reports_where_it_continues(begin, runs_dir, left, sentence):
    run = begin(send=False)
    workspace.prepare(run, kinds.get(run.kind))
    for name in left:
        (runs_dir / str(run.pk) / name).parent.mkdir(parents=True, exist_ok=True)
        with checkpoints.sealed(runs_dir / str(run.pk) / name) as draft:
            draft.touch()
    Run.objects.filter(pk=run.pk).update(attempt=1)
    run = execution.run_now(run.pk)
    assert sentence in [event.data["text"] for event in run.events.filter(event="message")]


def test_a_run_of_an_unknown_kind_fails_with_a_sentence():
    run = execution.run_now(Run.objects.create(kind="alchemy").pk)
    assert run.state == State.FAILED
    assert "There is no run kind 'alchemy'" in run.error


def test_a_run_cancelled_before_its_start_never_starts_its_recipe(begin, runs_dir):
    run = begin(send=False)
    Run.objects.filter(pk=run.pk).update(cancel_requested_at=Now())
    run = execution.run_now(run.pk)
    assert run.state == State.CANCELLED
    assert not (runs_dir / str(run.pk) / "log.txt").exists()


@contextmanager
def unavailable_database() -> Iterator[None]:
    """Drop all connections except this thread's, and refuse new ones."""
    name = connection.settings_dict["NAME"]
    connection.ensure_connection()
    own = connection.connection.info.backend_pid
    elsewhere = urlsplit(database_url())._replace(path="/postgres").geturl()
    with psycopg.connect(elsewhere, autocommit=True) as server:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = %s AND pid <> %s",
                [name, own],
            )
            yield
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


@pytest.mark.django_db(transaction=True)
def test_a_run_that_finishes_during_an_outage_publishes_afterwards(begin, runs_dir, settings):
    """Check that nothing is repeated or lost when the lease expires in the last attempt."""
    settings.RUN_LEASE_SECONDS, settings.RUN_MAX_ATTEMPTS = 2, 1
    run = begin(total=20, delay=0.05, send=False)
    folder = runs_dir / str(run.pk)
    supervising = threading.Thread(target=execution.run_now, args=(run.pk,))
    supervising.start()
    wait_until(lambda: (folder / "events.jsonl").exists())
    with unavailable_database():
        wait_until(lambda: (folder / ".finished").exists())
        Run.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
        lifecycle.reap()
        run.refresh_from_db()
        assert run.state == State.FAILED
    supervising.join(60)
    run.refresh_from_db()
    assert (run.state, run.attempt, run.error) == (State.SUCCEEDED, 1, "")
    assert run.result["digest"] == digest_of(20)
    assert (folder / "log.txt").read_text().count("--- attempt") == 1
    steps = run.events.filter(event="progress").values_list("data__step", flat=True)
    assert sorted(steps) == list(range(1, 21))


@contextmanager
def standby() -> Iterator[None]:
    """Refuse writes, as a standby does after a failover, except on this thread's connection."""
    name = connection.settings_dict["NAME"]
    connection.ensure_connection()
    own = connection.connection.info.backend_pid
    elsewhere = urlsplit(database_url())._replace(path="/postgres").geturl()
    with psycopg.connect(elsewhere, autocommit=True) as server:

        def change(to: str) -> None:
            server.execute(f'ALTER DATABASE "{name}" {to}')
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = %s AND pid <> %s",
                [name, own],
            )

        change("SET default_transaction_read_only = on")
        try:
            yield
        finally:
            change("RESET default_transaction_read_only")


@pytest.mark.django_db(transaction=True)
def test_a_recipe_goes_on_while_the_database_refuses_writes(begin, runs_dir):
    run = begin(total=20, delay=0.05, send=False)
    folder = runs_dir / str(run.pk)
    supervising = threading.Thread(target=execution.run_now, args=(run.pk,))
    supervising.start()
    wait_until(lambda: (folder / "events.jsonl").exists())
    with standby():
        wait_until(lambda: (folder / ".finished").exists())
    supervising.join(60)
    run.refresh_from_db()
    assert (run.state, run.attempt, run.error) == (State.SUCCEEDED, 1, "")
    assert run.events.filter(event="progress").count() == 20


def test_results_of_an_earlier_attempt_are_reused(begin, runs_dir):
    run = begin(total=4, send=False)
    workspace.prepare(run, kinds.get(run.kind))
    folder = runs_dir / str(run.pk)
    command = child.command_for("tests.runs.counting", folder, gpus=0)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    workspace.mark_finished(workspace.run_dir_of(run))
    run = execution.run_now(run.pk)
    assert (run.state, run.error) == (State.SUCCEEDED, "")
    assert run.result["digest"] == digest_of(4)
    assert not (folder / "log.txt").exists()
    texts = [event.data["text"] for event in run.events.filter(event="message")]
    assert texts == ["An earlier attempt finished, and its results are used."]


def test_results_that_cannot_be_reused_are_computed_again(begin):
    run = execution.run_now(begin(word="unfinishable", send=False).pk)
    assert run.state == State.FAILED
    Run.objects.filter(pk=run.pk).update(inputs={"word": "hello"})
    services.restart(run, None)
    run = execution.run_now(run.pk)
    assert run.state == State.SUCCEEDED
    assert "counting from" in workspace.log_of(workspace.run_dir_of(run)).read_text()


@contextmanager
def directory_in_use(run: Run) -> Iterator[None]:
    """Hold the lock of the run's directory, as another machine would."""
    with workspace.lock_run_dir(run) as lock:
        os.ftruncate(lock, 0)
        yield


@pytest.mark.django_db(transaction=True)
def test_the_lease_is_renewed_while_the_run_waits_for_its_directory(begin, settings):
    settings.RUN_LEASE_SECONDS = 2
    run = begin(total=2, send=False)
    with directory_in_use(run):
        waiting = threading.Thread(target=execution.run_now, args=(run.pk,))
        waiting.start()
        wait_until(lambda: Run.objects.filter(pk=run.pk, state=State.RUNNING).exists())
        for _ in range(10):
            time.sleep(0.25)
            assert lifecycle.reap() == []
    waiting.join(20)
    run.refresh_from_db()
    assert (run.state, run.attempt, run.error) == (State.SUCCEEDED, 1, "")


@pytest.mark.django_db(transaction=True)
def test_a_run_cancelled_while_it_waits_for_its_directory_ends_as_cancelled(begin):
    run = begin(send=False)
    with directory_in_use(run):
        waiting = threading.Thread(target=execution.run_now, args=(run.pk,))
        waiting.start()
        wait_until(lambda: Run.objects.filter(pk=run.pk, state=State.RUNNING).exists())
        services.cancel(run, None)
        waiting.join(5)
        run.refresh_from_db()
        assert (run.state, run.error) == (State.CANCELLED, "")


def test_a_cancelled_run_that_cannot_be_prepared_ends_as_cancelled(begin):
    run = begin(word="unpreparable", send=False)
    Run.objects.filter(pk=run.pk).update(cancel_requested_at=Now())
    assert execution.run_now(run.pk).state == State.CANCELLED


def test_a_recipe_stopped_by_a_signal_is_retried(begin, runs_dir, monkeypatch):
    """Stop the recipe first, as a machine that shuts down and signals all processes."""
    run = begin(total=30, delay=0.05, checkpoint_every=1, send=False)
    folder = runs_dir / str(run.pk)

    def stop_recipe() -> None:
        wait_until(lambda: (folder / "checkpoints" / "count-3.json").exists())
        os.kill(int((folder / "recipe.pid").read_text()), signal.SIGTERM)

    threading.Thread(target=stop_recipe).start()
    run = execution.run_now(run.pk)
    assert (run.state, run.attempt) == (State.SUCCEEDED, 2)
    assert run.result["digest"] == digest_of(30)


def test_a_recipe_that_requests_a_restart_loses_no_attempt(begin):
    run = execution.run_now(begin(trouble="again", send=False).pk)
    assert (run.state, run.error, run.attempt) == (State.SUCCEEDED, "", 1)
    assert run.result["digest"] == digest_of(5)


def test_the_exit_of_several_processes_is_reported_in_place_of_the_launchers(begin):
    """Check that a stopped attempt is retried, and that one without an exit report fails."""
    run = execution.run_now(begin(trouble="stopped behind a launcher", send=False).pk)
    assert (run.state, run.attempt) == (State.FAILED, 2)
    assert "The recipe ended with status 1." in run.error


@pytest.mark.torch
def test_several_processes_get_the_whole_grace_period_for_their_checkpoint(monkeypatch, settings):
    from torch.distributed.launcher.api import LaunchConfig

    settings.RUN_GRACE_SECONDS = 90.5
    environment = child.environment(["python", "-m", child.LAUNCHER])
    monkeypatch.setenv(
        child.LAUNCHER_TIMEOUT_VARIABLE, environment[child.LAUNCHER_TIMEOUT_VARIABLE]
    )
    read = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2).shutdown_timeout
    assert read is not None and read > 90.5


def test_a_recipe_gets_the_allowed_variables_and_no_secret(begin, runs_dir, monkeypatch):
    allowed = {"HF_TOKEN": "hf_1", "HF_HOME": "/tmp/hf", "OMP_NUM_THREADS": "1", "https_proxy": "p"}
    names = (
        "DATABASE_URL", "REDIS_URL", "TIEBREAK_SECRET_KEY", "DJANGO_SETTINGS_MODULE",
        "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "GITHUB_TOKEN", "SECRET_OF_A_PLUGIN",
    )  # fmt: skip
    for name, value in {**allowed, **dict.fromkeys(names[3:], "hunter2")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIEBREAK_SECRET_KEY", "hunter2")
    run = execution.run_now(begin(total=2, send=False).pk)
    environment = json.loads((runs_dir / str(run.pk) / "environment.json").read_text())
    assert {name: environment.get(name) for name in allowed} == allowed
    assert environment["PATH"] == os.environ["PATH"]
    assert not set(names) & set(environment)
    assert "hunter2" not in environment.values()


def test_two_attempts_never_write_the_same_directory_concurrently(begin, runs_dir):
    """Check that the next attempt on the same machine kills the recipe of a hanging supervisor."""
    run = begin(total=1000, delay=0.05, trouble="deaf", send=False)
    folder = runs_dir / str(run.pk)
    workspace.prepare(run, kinds.get("counting"))
    with workspace.lock_run_dir(run) as lock:
        command = child.command_for("tests.runs.counting", folder, gpus=0)
        stale = child.Child(command, log=folder / "log.txt", lock=lock)
        workspace.note_holder(lock, stale.watchdog_pid)
    wait_until(lambda: (folder / "recipe.pid").exists() and (folder / "events.jsonl").exists())
    with workspace.lock_run_dir(run):
        size = (folder / "events.jsonl").stat().st_size
        time.sleep(0.2)
        assert (folder / "events.jsonl").stat().st_size == size
    assert stale.ended(5) == 128 + signal.SIGKILL


def test_the_recipe_of_another_machine_ends_when_its_run_is_taken_over(
    begin, runs_dir, monkeypatch
):
    """Check this for a holder whose process id is unknown here, as on another machine."""
    monkeypatch.setattr(workspace, "STALE_SECONDS", 0.7)
    run = begin(total=1000, delay=0.05, trouble="deaf", send=False)
    run_dir = workspace.prepare(run, kinds.get("counting"))
    with workspace.lock_run_dir(run) as lock:
        command = child.command_for("tests.runs.counting", run_dir.path, gpus=0)
        fence = workspace.fence_of(run_dir, run.fencing_token)
        late = child.Child(command, log=run_dir.path / "log.txt", lock=lock, fence=fence)
    run.fencing_token += 1
    with workspace.lock_run_dir(run):
        assert late.ended(0) == 128 + signal.SIGKILL
        assert not (run_dir.path / workspace.TAKEN_OVER).exists()


def test_the_folder_of_another_databases_run_is_refused(begin):
    run = execution.run_now(begin(total=2, send=False).pk)
    run.created_at += timedelta(seconds=1)
    with pytest.raises(kinds.CannotRun, match="another database"):
        workspace.prepare(run, kinds.get(run.kind))

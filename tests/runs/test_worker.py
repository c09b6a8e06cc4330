"""Tests of real workers and a real Redis, with crashes, shutdowns and lost messages."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.db import connection

from config.env import BASE_DIR
from config.local.processes import free_port
from config.local.redis import redis_binary
from runs import services
from runs.models import Run, RunEvent, State
from tests.runs.test_supervisor import digest_of
from tests.worker import wait_for_end, wait_until

KINDS = "tests.runs.kinds"


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def reach(run: Run, step: int) -> None:
    def there() -> bool:
        run.refresh_from_db()
        return run.step >= step

    wait_until(there, explain=lambda: f"{run.state} at step {run.step}: {run.error}")


def pid_in(runs_dir: Path, run: Run, name: str) -> int:
    return int((runs_dir / str(run.pk) / name).read_text())


def test_a_run_survives_kill_9_of_its_worker_with_the_same_result(begin, celery_worker, runs_dir):
    first = celery_worker(include=KINDS)
    run = begin(total=100, delay=0.05, checkpoint_every=5, trouble="grandchild")
    reach(run, 7)
    recipe, grandchild = (
        pid_in(runs_dir, run, "recipe.pid"),
        pid_in(runs_dir, run, "grandchild.pid"),
    )
    assert alive(recipe)
    assert alive(grandchild)
    family = Path(f"/proc/{first.process.pid}/task/{first.process.pid}/children")
    beat, *_ = [int(pid) for pid in family.read_text().split() if alive(int(pid))]
    first.kill()
    wait_until(lambda: not alive(recipe) and not alive(grandchild), 2.5)
    traces = [runs_dir / str(run.pk) / name for name in ("events.jsonl", "grandchild.txt")]
    sizes = [path.stat().st_size for path in traces]
    time.sleep(0.3)
    assert [path.stat().st_size for path in traces] == sizes, "an orphan kept writing"
    wait_until(lambda: not alive(beat), 5)
    celery_worker(include=KINDS)
    wait_for_end(run)
    assert (run.state, run.attempt) == (State.SUCCEEDED, 2)
    assert run.result["digest"] == digest_of(100)
    texts = RunEvent.objects.filter(run=run, event="message").values_list("data__text", flat=True)
    assert any("resumed from step" in text for text in texts)


def test_a_run_returns_to_the_queue_with_a_checkpoint_when_its_worker_shuts_down(
    begin, celery_worker, runs_dir
):
    first = celery_worker(include=KINDS)
    run = begin(total=60, delay=0.05, checkpoint_every=40)
    reach(run, 5)
    assert first.stop() == 0
    run.refresh_from_db()
    assert (run.state, run.attempt) == (State.QUEUED, 0)
    assert list((runs_dir / str(run.pk) / "checkpoints").glob("count-*"))
    celery_worker(include=KINDS)
    wait_for_end(run)
    assert (run.state, run.attempt, run.result["digest"]) == (State.SUCCEEDED, 1, digest_of(60))


def test_a_cancelled_run_ends_within_the_grace_period_or_is_killed(begin, celery_worker, runs_dir):
    celery_worker(include=KINDS, grace=1)
    polite = begin(total=1000, delay=0.05)
    reach(polite, 3)
    services.cancel(polite, None)
    wait_for_end(polite, 8)
    assert polite.state == State.CANCELLED
    assert not alive(pid_in(runs_dir, polite, "recipe.pid"))
    assert list((runs_dir / str(polite.pk) / "checkpoints").glob("count-*"))
    deaf = begin(total=1000, delay=0.05, trouble="deaf")
    reach(deaf, 3)
    recipe = pid_in(runs_dir, deaf, "recipe.pid")
    services.cancel(deaf, None)
    wait_for_end(deaf, 10)
    assert deaf.state == State.CANCELLED
    assert not alive(recipe)


def processes_training(run: Run) -> list[int]:
    """Return the ids of this run's recipe processes that are neither dead nor suspended."""
    recipes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"tests.runs.counting" in command and command[-2].endswith(f"/{run.pk}".encode()):
            recipes += [int(path.parent.name)] * (b"runs.supervision.watchdog" not in command)
    return [pid for pid in recipes if alive(pid)]


def test_another_worker_on_the_machine_takes_over_the_run_of_a_suspended_one(
    begin, celery_worker, runs_dir
):
    """Check that the suspended worker's recipe ends, which holds the only place for a run."""
    stopped = celery_worker(include=KINDS, lease=2)
    run = begin(total=150, delay=0.05, checkpoint_every=5)
    reach(run, 7)
    (first,) = processes_training(run)
    os.kill(stopped.process.pid, signal.SIGSTOP)
    try:
        celery_worker(include=KINDS, lease=2)
        wait_until(lambda: not alive(first) and len(processes_training(run)) == 1, 20)
        run.refresh_from_db()
        assert (run.state, run.attempt) == (State.RUNNING, 2)
    finally:
        os.kill(stopped.process.pid, signal.SIGCONT)
    for _ in range(10):
        time.sleep(0.1)
        assert len(processes_training(run)) <= 1
    wait_for_end(run)
    assert (run.state, run.attempt, run.result["digest"]) == (State.SUCCEEDED, 2, digest_of(150))


def test_a_run_survives_a_database_that_drops_its_connections(begin, celery_worker):
    worker = celery_worker(include=KINDS)
    run = begin(total=80, delay=0.05)
    reach(run, 3)

    def dropped() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return cursor.fetchone()[0]

    for _ in range(3):
        wait_until(dropped)
        connection.close_pool()  # the pool of this process lost its connections too
        time.sleep(0.7)
    wait_for_end(run)
    assert (run.state, run.attempt, run.error) == (State.SUCCEEDED, 1, "")
    assert "The database does not answer" in worker.said()
    steps = RunEvent.objects.filter(run=run, event="progress").values_list("data__step", flat=True)
    assert list(steps) == list(range(1, 81))


def start_redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [redis_binary(), "--port", str(port), "--dir", str(folder), "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)), 5)
    return server


def test_a_run_survives_a_restart_of_redis(begin, celery_worker, tmp_path, monkeypatch):
    port = free_port(17000)
    redis = start_redis(tmp_path, port)
    try:
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}/0")
        celery_worker(include=KINDS)
        during = begin(total=60, delay=0.05, send=False)
        reach(during, 3)
        redis.kill()
        redis.wait(5)
        time.sleep(1)
        redis = start_redis(tmp_path, port)
        after = begin(send=False)
        wait_for_end(during)
        wait_for_end(after)
        assert (during.state, during.attempt) == (State.SUCCEEDED, 1)
        assert after.state == State.SUCCEEDED
    finally:
        redis.kill()
        redis.wait(5)


TELL = """
import django
django.setup()
from runs import messages
print(messages.notify_worker(1), messages.pending_messages())
"""


@pytest.mark.processes
def test_sending_to_a_hanging_broker_times_out(folder):
    """Check that sending does not wait until the broker continues."""
    port = free_port(17000)
    redis = start_redis(folder, port)
    redis.send_signal(signal.SIGSTOP)
    try:
        output = subprocess.run(
            [sys.executable, "-c", TELL], cwd=BASE_DIR, capture_output=True, text=True, timeout=60,
            env={
                **os.environ, "REDIS_URL": f"redis://127.0.0.1:{port}/0",
                "DJANGO_SETTINGS_MODULE": "config.settings",
            },
        )  # fmt: skip
        assert output.stdout.split() == ["False", "0"], output.stderr
        assert "the broker does not answer" in output.stderr
    finally:
        redis.kill()
        redis.wait(5)

"""Tests of runs on a real Ray cluster with two nodes, which takes 15 seconds to start.

The tests that cancel runs and kill nodes take a minute more. They run with TIEBREAK_TEST_CLUSTER=1.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runs import execution, launchers, services
from runs.launchers.ray_jobs import connect
from runs.models import ENDED, Run, RunEvent, State
from runs.supervision import workspace
from tests.ray_cluster import TOKEN, RayCluster
from tests.runs.test_supervisor import digest_of
from tests.worker import database_url, empty_queues

on_request = pytest.mark.skipif(
    os.environ.get("TIEBREAK_TEST_CLUSTER") != "1",
    reason="The tests of cancelling and of lost nodes take a minute. Set TIEBREAK_TEST_CLUSTER=1.",
)
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def cluster(django_db_setup: None) -> Iterator[RayCluster]:
    folder = Path(tempfile.mkdtemp(prefix="tb-"))
    with RayCluster(folder, node_variables(folder), worker_gpus=1) as cluster:
        yield cluster
    shutil.rmtree(folder, ignore_errors=True)


def node_variables(folder: Path) -> dict[str, str]:
    """Return the environment of the nodes: that of a worker."""
    return {
        "DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": "tests.cluster_settings",
        "TIEBREAK_LAUNCHER": "local",
        "TIEBREAK_LOCAL_SERVICES": "",
        "TIEBREAK_SECRET_KEY": "a key that signs nothing here",
        "TIEBREAK_VAR": str(folder / "var"),
        "TIEBREAK_RUNS_DIR": str(folder / "runs"),
        "TIEBREAK_RUN_LEASE_SECONDS": "3",
        "TIEBREAK_RUN_GRACE_SECONDS": "5",
    }


@pytest.fixture(autouse=True)
def on_the_cluster(cluster: RayCluster, settings: Any, transactional_db: None) -> None:
    settings.LAUNCHER, settings.RAY_ADDRESS, settings.RAY_TOKEN = "ray", cluster.url, TOKEN
    settings.RUNS_DIR = cluster.folder / "runs"
    settings.VAR_DIR = cluster.folder / "var"
    settings.RUN_LEASE_SECONDS = 3
    empty_queues()


def wait_for(run: Run, fact: Callable[[Run], bool], seconds: float = 40) -> Run:
    """Act as the scheduler and the worker, which reap and submit runs, until the fact is true."""
    deadline = time.monotonic() + seconds
    while True:
        execution.reap()
        run.refresh_from_db()
        if fact(run):
            return run
        where = f"Run {run.pk} is {run.state} at step {run.step}. {run.error}"
        assert time.monotonic() < deadline, where
        time.sleep(0.3)


def has_ended(run: Run) -> bool:
    return run.state in ENDED


def log_of(cluster: RayCluster, run: Run) -> str:
    return cluster.get(f"/api/jobs/run-{run.pk}-1/logs")


def test_a_job_of_the_cluster_executes_a_run_with_the_gpu_that_ray_gave_it(begin, cluster):
    run = wait_for(begin(total=4), has_ended)
    assert (run.state, run.attempt, run.error) == (State.SUCCEEDED, 1, "")
    assert run.result["digest"] == digest_of(4)
    assert run.artifacts.count() == 2
    environment = json.loads(
        (cluster.folder / "runs" / str(run.pk) / "environment.json").read_text()
    )
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert "DATABASE_URL" not in environment
    assert f"Run {run.pk} (counting): succeeded" in log_of(cluster, run)
    with connect(cluster.url, TOKEN) as ray:
        assert [job for job in ray.all() if job.startswith(f"run-{run.pk}-")] == [f"run-{run.pk}-1"]


@on_request
def test_running_and_waiting_runs_are_cancelled(begin, cluster):
    running = begin(total=1000, delay=0.05)
    wait_for(running, lambda run: run.step >= 2)
    queued = begin(total=4)
    wait_for(queued, lambda run: run.message_sent_at is not None)
    services.cancel(queued, None)
    services.cancel(running, None)
    wait_for(running, has_ended)
    queued.refresh_from_db()
    assert (running.state, queued.state) == (State.CANCELLED, State.CANCELLED)
    assert list((cluster.folder / "runs" / str(running.pk) / "checkpoints").glob("count-*"))
    assert not (cluster.folder / "runs" / str(queued.pk)).exists()


@on_request
def test_a_run_resumes_on_a_new_node_after_its_node_was_killed(begin, cluster):
    run = wait_for(begin(total=150, delay=0.05, checkpoint_every=5), lambda run: run.step >= 12)
    cluster.worker.kill()
    cluster.worker.start()
    wait_for(run, has_ended, 90)
    assert (run.state, run.attempt, run.result["digest"]) == (State.SUCCEEDED, 2, digest_of(150))
    assert_nothing_ran_twice(run)


@on_request
def test_a_run_continues_while_the_head_node_is_dead_and_others_wait(begin, cluster, caplog):
    run = wait_for(begin(total=400, delay=0.05, checkpoint_every=5), lambda run: run.step >= 12)
    cluster.head.kill()
    step = run.step
    wait_for(run, lambda run: run.step >= step + 40)
    waiting = begin(total=4)
    launchers.chosen().start_overdue()
    assert "Queued runs wait: The Ray cluster" in caplog.text
    waiting.refresh_from_db()
    assert (waiting.state, waiting.message_sent_at) == (State.QUEUED, None)
    cluster.worker.kill()  # a node ends a minute after its head node
    cluster.start()
    wait_for(run, has_ended, 90)
    wait_for(waiting, has_ended, 60)
    assert (run.state, run.attempt, run.result["digest"]) == (State.SUCCEEDED, 2, digest_of(400))
    assert (waiting.state, waiting.attempt) == (State.SUCCEEDED, 1)
    assert_nothing_ran_twice(run)


def assert_nothing_ran_twice(run: Run) -> None:
    """Check that each attempt began where the newest checkpoint was, and all steps were stored once."""
    texts = RunEvent.objects.filter(run=run, event="message").values_list("data__text", flat=True)
    assert any("resumed from step" in text for text in texts)
    log = workspace.log_of(workspace.run_dir_of(run)).read_text()
    assert log.count("--- attempt") == 2
    assert run.artifacts.count() == 2

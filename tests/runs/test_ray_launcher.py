"""Tests of the launcher for Ray with a server that answers as Ray does. test_ray_cluster.py has a real one."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from config import doctor
from config.env import BASE_DIR, Variable
from runs import kinds, launchers, lifecycle, queue, services, tasks
from runs.launchers import ray
from runs.launchers.ray_jobs import connect
from runs.models import Run, State
from runs.supervision import machine_report
from tests.runs.test_lifecycle import all_at_once, in_state

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]


class FakeRay(ThreadingHTTPServer):
    """A server with the part of Ray's API that Tiebreak uses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.stopped: list[str] = []
        self.tokens: list[str] = []
        self.answer: tuple[int, bytes] | None = None
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def end(
        self, job_id: str, status: str, message: str = "", exit_code: int | None = None
    ) -> None:
        self.jobs[job_id] |= {
            "status": status, "message": message, "end_time": 1, "driver_exit_code": exit_code,
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    server: FakeRay

    def reply(self, status: int, value: Any) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        self.server.tokens.append(self.headers.get("Authorization", ""))
        name = self.path.removeprefix("/api/jobs/").removesuffix("/stop")
        if self.server.answer:
            self.reply(*self.server.answer)
        elif self.path == "/api/version":
            self.reply(200, {"ray_version": "2.60.0"})
        elif self.command == "GET":
            self.reply(200, list(self.server.jobs.values()))
        elif self.command == "DELETE":
            del self.server.jobs[name]
            self.reply(200, {"deleted": True})
        elif self.path.endswith("/stop"):
            self.server.stopped.append(name)
            self.server.end(name, "STOPPED")
            self.reply(200, {"stopped": True})
        elif body["submission_id"] in self.server.jobs:
            self.reply(500, b"Traceback\nValueError: the job already exists")
        else:
            self.server.jobs[body["submission_id"]] = {**body, "status": "PENDING"}
            self.reply(200, {"submission_id": body["submission_id"]})

    do_GET = do_POST = do_DELETE = handle_any

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def cluster(settings: Any) -> Iterator[FakeRay]:
    with FakeRay() as server:
        settings.LAUNCHER, settings.RAY_ADDRESS = "ray", server.url
        yield server
        server.shutdown()


def waiting(**fields: Any) -> Run:
    run = in_state(State.QUEUED, **fields)
    Run.objects.filter(pk=run.pk).update(attempt=0)
    run.refresh_from_db()
    return run


def make_old(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(message_sent_at=Now() - timedelta(hours=1))


def submit() -> None:
    launchers.chosen().start_overdue()


def test_a_queued_run_is_submitted_once_and_only_its_job_can_claim_it(cluster, settings):
    settings.RAY_FOLDER, settings.RAY_PYTHON = "/opt/tie break", "/opt/venv/bin/python"
    settings.RAY_CPUS, settings.RAY_GPUS, settings.RAY_RESOURCES = 3, 4, {"tiebreak": 1.0}
    settings.RAY_TOKEN = "secret"
    run = waiting()
    submit()
    submit()
    (job,) = cluster.jobs.values()
    assert job["submission_id"] == f"run-{run.pk}-1"
    command = f"cd '/opt/tie break' && exec /opt/venv/bin/python manage.py execute_run {run.pk} 1"
    assert job["entrypoint"] == command
    assert (job["entrypoint_num_cpus"], job["entrypoint_num_gpus"]) == (3, 1)
    assert job["entrypoint_resources"] == {"tiebreak": 1}
    assert set(cluster.tokens) == {"Bearer secret"}
    assert "secret" not in json.dumps(job)
    assert lifecycle.claim(run.pk, "another job", token=0) is None
    assert lifecycle.claim(run.pk, "its job", token=1) == lifecycle.Lease(run.pk, 2)
    assert lifecycle.claim(run.pk, "its job again", token=1) is None


def test_two_workers_that_submit_at_the_same_time_submit_one_job(cluster, transactional_db):
    run = waiting()
    all_at_once(*[submit for _ in range(4)])
    assert list(cluster.jobs) == [f"run-{run.pk}-1"]


def test_recipes_for_several_gpus_get_the_number_of_the_settings(cluster, settings, monkeypatch):
    settings.RAY_GPUS = 4
    many = replace(kinds.get("counting"), multi_gpu=True)
    monkeypatch.setitem(kinds._kinds, "counting", many)
    assert ray.resources_for(waiting()).gpus == 4
    settings.RAY_GPUS = 0
    assert ray.resources_for(waiting()).gpus == 0


def test_few_jobs_wait_in_the_cluster_so_that_priorities_are_respected(cluster, settings):
    settings.RAY_PENDING_JOBS = 2
    low, first, second, high = (waiting(priority=n) for n in (-1, 0, 0, 1))
    submit()
    assert set(cluster.jobs) == {f"run-{high.pk}-1", f"run-{first.pk}-1"}
    lifecycle.claim(high.pk, "its job", token=1)
    cluster.end(f"run-{high.pk}-1", "RUNNING")
    submit()
    assert f"run-{second.pk}-1" in cluster.jobs and f"run-{low.pk}-1" not in cluster.jobs


def test_a_job_that_the_cluster_has_lost_is_submitted_again_and_cannot_claim_late(cluster):
    run = waiting()
    submit()
    cluster.jobs.clear()  # a new head node knows nothing
    submit()
    assert not cluster.jobs, "the job may have been submitted a moment ago"
    make_old(run)
    submit()
    assert list(cluster.jobs) == [f"run-{run.pk}-2"]
    assert lifecycle.claim(run.pk, "the late job", token=1) is None
    assert lifecycle.claim(run.pk, "the new job", token=2)


def test_jobs_that_end_before_they_claim_the_run_count_as_attempts(cluster, settings):
    settings.RUN_MAX_ATTEMPTS = 2
    run = waiting()
    submit()
    cluster.end(f"run-{run.pk}-1", "FAILED", "log:\nNo such file: \0 python", 127)
    submit()
    run.refresh_from_db()
    assert (run.state, run.attempt, run.message_sent_at) == (State.QUEUED, 1, None)
    submit()
    cluster.end(f"run-{run.pk}-3", "FAILED", "No such file: python", 127)
    submit()
    run.refresh_from_db()
    assert (run.state, run.attempt) == (State.FAILED, 2)
    assert "No such file: python" in run.error and f"run-{run.pk}-3" in run.error
    assert lifecycle.claim(run.pk, "a late job", token=3) is None


def test_a_job_that_was_lost_with_its_node_does_not_count_as_an_attempt(cluster):
    run = waiting()
    submit()
    cluster.end(f"run-{run.pk}-1", "FAILED", "The actor died.")
    submit()
    run.refresh_from_db()
    assert (run.state, run.attempt) == (State.QUEUED, 0)
    assert cluster.jobs[f"run-{run.pk}-2"]["status"] == "PENDING"
    assert lifecycle.claim(run.pk, "a late job", token=1) is None


def test_a_job_that_runs_without_claiming_is_stopped_after_a_while(cluster):
    run = waiting()
    submit()
    cluster.end(f"run-{run.pk}-1", "RUNNING")
    submit()
    assert not cluster.stopped
    make_old(run)
    submit()
    assert cluster.stopped == [f"run-{run.pk}-1"]
    assert lifecycle.claim(run.pk, "the slow job", token=1) is None


def test_a_job_may_wait_for_a_free_node_for_any_time(cluster):
    run = waiting()
    submit()
    make_old(run)
    submit()
    cluster.end(f"run-{run.pk}-1", "RUNNING")
    submit()
    assert not cluster.stopped, "the time to start begins when a node is free"


def test_waiting_jobs_of_cancelled_runs_are_stopped_and_old_records_deleted(cluster):
    run, old = waiting(), in_state(State.SUCCEEDED)
    submit()
    foreign = {"status": "PENDING", "submission_id": "run-1-1", "metadata": {"x": 1}}
    cluster.jobs["theirs"] = {**foreign, "submission_id": "theirs"}
    metadata = {"tiebreak_run": str(old.request_id)}
    cluster.jobs["old"] = {
        "submission_id": "old",
        "status": "FAILED",
        "metadata": metadata,
        "end_time": 9,
    }
    services.cancel(run, None)
    submit()
    assert cluster.stopped == [f"run-{run.pk}-1"]
    assert set(cluster.jobs) == {f"run-{run.pk}-1", "theirs"}


def test_a_job_of_another_installation_with_the_same_id_is_left_alone(cluster):
    run = waiting(fencing_token=1)
    theirs = {"tiebreak_run": "8f14e45f-ceea-467f-a5fa-0b1d4d3c6d0e"}
    name = f"run-{run.pk}-1"
    cluster.jobs[name] = {"submission_id": name, "status": "RUNNING", "metadata": theirs}
    submit()
    assert set(cluster.jobs) == {name, f"run-{run.pk}-2"} and not cluster.stopped


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, b"Traceback\nRuntimeError: no agent"), "status 500: RuntimeError: no agent"),
        ((403, b"no"), "refused TIEBREAK_RAY_TOKEN"),
        ((200, b"<html>"), "did not answer as a Ray cluster does"),
        ((200, b'{"a": 1}'), "did not answer as a Ray cluster does"),
        ((200, b"[" + b" " * (17 << 20)), "larger than 16 MB"),
    ],
)
def test_a_strange_answer_is_reported_and_the_run_waits(cluster, answer, message, caplog):
    run = waiting()
    cluster.answer = answer
    submit()
    assert message in caplog.text
    run.refresh_from_db()
    assert (run.state, run.fencing_token) == (State.QUEUED, 0)


def test_strange_jobs_are_ignored(cluster):
    run = waiting()
    cluster.answer = (
        200,
        json.dumps([1, {}, {"submission_id": 3, "metadata": [], "end_time": "x"}]).encode(),
    )
    with connect(cluster.url, "") as client:
        assert list(client.all()) == ["3"]
    cluster.answer = None
    submit()
    assert f"run-{run.pk}-1" in cluster.jobs


def test_a_run_waits_while_the_cluster_is_down_and_its_page_says_so(cluster, caplog):
    cluster.shutdown()
    cluster.server_close()
    run = waiting()
    submit()
    assert "The Ray cluster at http://127.0.0.1" in caplog.text
    assert "has not accepted the run" in queue.reason_of(run)
    Run.objects.update(message_sent_at=Now())
    run.refresh_from_db()
    assert "free node of the Ray cluster" in queue.reason_of(run)


def test_a_refused_submission_is_repeated(cluster):
    run = waiting()
    cluster.answer = None
    cluster.jobs[f"run-{run.pk}-1"] = {"submission_id": f"run-{run.pk}-1", "status": "FAILED"}
    submit()  # the id is taken
    run.refresh_from_db()
    assert run.message_sent_at is None
    submit()
    assert f"run-{run.pk}-2" in cluster.jobs


def test_a_run_of_an_unknown_kind_fails_before_it_is_submitted(cluster):
    run = waiting()
    Run.objects.filter(pk=run.pk).update(kind="gone")
    submit()
    run.refresh_from_db()
    assert run.state == State.FAILED and "no run kind" in run.error and not cluster.jobs


def test_a_job_that_comes_late_changes_nothing(monkeypatch):
    monkeypatch.delenv("TIEBREAK_LOCAL_SERVICES", raising=False)
    run = waiting(fencing_token=2)
    before = Run.objects.values().get(pk=run.pk)
    output = StringIO()
    for number, token in ((run.pk, 1), (run.pk + 1, 2), (run.pk, 10**30), (run.pk, -1)):
        with pytest.raises(SystemExit) as end:
            call_command("execute_run", number, token, stderr=output)
        assert end.value.code == 3
    assert "Nothing was changed" in output.getvalue()
    assert Run.objects.values().get(pk=run.pk) == before


def test_workers_execute_no_runs_if_the_cluster_does(cluster):
    run = waiting()
    tasks.execute(run.pk)
    run.refresh_from_db()
    assert (run.state, run.attempt) == (State.QUEUED, 0)
    tasks.submit_jobs()
    assert list(cluster.jobs) == [f"run-{run.pk}-1"]


def test_a_node_with_a_full_disk_leaves_the_run_in_the_queue(monkeypatch):
    monkeypatch.delenv("TIEBREAK_LOCAL_SERVICES", raising=False)
    monkeypatch.setattr(machine_report, "storage_problem", lambda: "No space is left.")
    run = waiting(fencing_token=2)
    with pytest.raises(CommandError, match="No space is left"):
        call_command("execute_run", run.pk, 2)
    run.refresh_from_db()
    assert (run.state, run.fencing_token) == (State.QUEUED, 2)


def test_a_node_without_the_address_of_the_database_says_so(monkeypatch):
    monkeypatch.setenv("TIEBREAK_LOCAL_SERVICES", "1")
    with pytest.raises(CommandError, match="DATABASE_URL"):
        call_command("execute_run", 1, 1)


@pytest.mark.parametrize("text", ["tiebreak", "=1", "a=-1", "a=1e9", "a=²"])
def test_resources_must_be_names_with_amounts(text, monkeypatch):
    monkeypatch.setenv("TIEBREAK_RAY_RESOURCES", text)
    with pytest.raises(ImproperlyConfigured, match="name and an amount"):
        Variable("TIEBREAK_RAY_RESOURCES", "", "").amounts()


def test_the_doctor_reports_a_cluster_that_refuses_requests(cluster):
    assert not list(doctor.cluster())
    cluster.answer = (401, b"")
    (problem,) = doctor.cluster()
    assert problem.serious and "refused TIEBREAK_RAY_TOKEN" in problem.sentence


def test_the_doctor_asks_no_cluster_that_is_not_used(settings):
    settings.RAY_ADDRESS = "http://127.0.0.1:1"
    assert not list(doctor.cluster())


@pytest.mark.parametrize("address", ["", "10.0.0.5:8265", "http://user:pw@host", "http://a b"])
def test_the_address_of_the_cluster_is_required_and_checked(address):
    variables = {**os.environ, "TIEBREAK_LAUNCHER": "ray", "TIEBREAK_RAY_ADDRESS": address}
    command = [sys.executable, "-c", "import config.settings"]
    done = subprocess.run(command, env=variables, cwd=BASE_DIR, capture_output=True, text=True)
    assert "it must be the address of the cluster's dashboard" in done.stderr

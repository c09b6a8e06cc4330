"""A real Celery worker in a separate process, on the test database.

    def test_…(celery_worker):          # implies a transactional database
        worker = celery_worker()        # starts one; several may run
        worker.kill()                   # kill -9, as a crash would

Import the fixtures into a conftest.py: `from tests.worker import celery_worker, runs_dir`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from django.conf import settings
from django.db import connection

from config.celery import app
from config.env import BASE_DIR
from runs.models import ENDED, Run

START_SECONDS = 30


def empty_queues() -> None:
    """Discard messages of earlier tests."""
    with app.connection_for_write() as broker:
        for queue in ("default", "gpu"):
            broker.default_channel.queue_declare(queue)
            broker.default_channel.queue_purge(queue)


def database_url() -> str:
    """Return the URL of the test database for a child process."""
    url = urlsplit(os.environ["DATABASE_URL"])
    return url._replace(path="/" + quote(connection.settings_dict["NAME"])).geturl()


class Worker:
    def __init__(
        self,
        folder: Path,
        *,
        include: str,
        lease: int,
        grace: int,
        wrap: Callable[[list[str]], list[str]] = list,
        variables: Mapping[str, str] = MappingProxyType({}),
    ):
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        environment = {
            **os.environ,
            "DATABASE_URL": database_url(),
            "TIEBREAK_SECRET_KEY": "a key that signs nothing here",
            "TIEBREAK_RUNS_DIR": str(settings.RUNS_DIR),
            "TIEBREAK_SNAPSHOTS_DIR": str(settings.SNAPSHOTS_DIR),
            "TIEBREAK_VAR": str(settings.VAR_DIR),
            "TIEBREAK_RUN_LEASE_SECONDS": str(lease),
            "TIEBREAK_RUN_GRACE_SECONDS": str(grace),
            **variables,
        }
        schedule = str(folder / "celerybeat-schedule")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                wrap([
                    sys.executable, "-m", "celery", "--app", "config", "worker", "--beat",
                    "--pool", "threads", "--concurrency", "4", "--queues", "default,gpu",
                    "--loglevel", "info", "--without-gossip", "--without-mingle",
                    "--schedule", schedule, *(["--include", include] if include else []),
                ]),
                cwd=BASE_DIR, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(lambda: " ready." in self.said(), START_SECONDS, self.said)

    def said(self) -> str:
        if self.process.poll() is not None and " ready." not in self.log.read_text():
            raise AssertionError(f"The worker ended: {self.log.read_text()}")
        return self.log.read_text()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """Shut down warmly, as a service manager does, and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"The worker did not stop: {self.said()}") from None


def wait_until(
    fact: Callable[[], Any], seconds: float = 20, explain: Callable[[], Any] = lambda: ""
) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := fact()):
        assert time.monotonic() < deadline, f"It did not happen in {seconds} s. {explain()}"
        time.sleep(0.05)
    return result


def wait_for_end(run: Run, seconds: float = 30) -> Run:
    def ended() -> bool:
        run.refresh_from_db()
        return run.state in ENDED

    wait_until(ended, seconds, lambda: f"Run {run.pk} is {run.state}, step {run.step}.")
    return run


@pytest.fixture
def runs_dir(settings: Any, tmp_path: Path) -> Path:
    """Return a folder for run directories, for this test and its workers only."""
    settings.RUNS_DIR = tmp_path / "runs"
    settings.SNAPSHOTS_DIR = tmp_path / "snapshots"
    settings.VAR_DIR = tmp_path
    return settings.RUNS_DIR


@pytest.fixture
def celery_worker(
    transactional_db: None, runs_dir: Path, tmp_path: Path
) -> Iterator[Callable[..., Worker]]:
    """Return a function that starts a worker in about two seconds. Workers end with the test."""
    workers: list[Worker] = []
    empty_queues()

    def start(*, include: str = "", lease: int = 3, grace: int = 5, **more: Any) -> Worker:
        workers.append(Worker(tmp_path, include=include, lease=lease, grace=grace, **more))
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()

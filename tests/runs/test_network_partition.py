"""A test of two machines, each with its own network and a worker, one of which is cut off during a run."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection
from psycopg.conninfo import conninfo_to_dict

from runs.models import Run, RunEvent, State
from tests.namespaces import Forwarder, Machine, reason_without
from tests.runs.test_supervisor import digest_of
from tests.runs.test_worker import KINDS, alive, processes_training, reach
from tests.worker import database_url, wait_for_end, wait_until


def servers() -> tuple[Any, Any]:
    """Return the addresses of the tests' PostgreSQL and Redis, for a socket to connect to."""
    database = conninfo_to_dict(os.environ["DATABASE_URL"])
    host, port = str(database.get("host") or "127.0.0.1"), int(database.get("port") or 5432)
    redis = urlsplit(os.environ["REDIS_URL"])
    return (
        f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port),
        redis.path if "socket" in redis.scheme else (redis.hostname, redis.port or 6379),
    )


@pytest.fixture
def machines(tmp_path: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield two machines, as options for `celery_worker`, and end them with the test."""
    if reason := reason_without():
        pytest.skip(reason)
    postgres, redis = servers()
    with ExitStack() as stack:
        options = []
        for number, name in enumerate("ab"):
            machine = stack.enter_context(Machine(name, number=number))
            ports = []
            for server in (postgres, redis):
                forwarder = Forwarder(machine.host, server)
                stack.callback(forwarder.close)
                ports.append(forwarder.port)
            options.append({"machine": machine, "variables": variables(machine, *ports, tmp_path)})
        yield options


def variables(machine: Machine, database_port: int, redis_port: int, folder: Any) -> dict[str, str]:
    parts = conninfo_to_dict(database_url())
    user, password = parts.get("user", "postgres"), parts.get("password", "")
    address = f"{machine.host}:{database_port}/{connection.settings_dict['NAME']}"
    return {
        "DATABASE_URL": f"postgresql://{user}:{password}@{address}?tcp_user_timeout=2000",
        "REDIS_URL": f"redis://{machine.host}:{redis_port}{urlsplit(os.environ['REDIS_URL']).query and '/0'}",
        "TIEBREAK_LOCAL_SERVICES": "",
        "TIEBREAK_VAR": str(folder / machine.name),
    }


def test_the_run_of_a_machine_that_is_cut_off_resumes_on_another_one(
    machines, begin, celery_worker
):
    """Check that the late machine ends its recipe and, when the network is back, changes nothing."""
    workers = {}
    for options in machines:
        machine = options.pop("machine")
        workers[machine.name] = (
            machine,
            celery_worker(include=KINDS, wrap=machine.command, **options),
        )
    run = begin(total=60, delay=0.05, checkpoint_every=5)
    reach(run, 7)
    first, late = workers[run.host]
    (recipe,) = processes_training(run)
    first.cut()
    os.kill(recipe, signal.SIGSTOP)  # it must not finish before it is taken over

    def is_resumed() -> bool:
        run.refresh_from_db()
        assert len(processes_training(run)) <= 1
        return run.attempt == 2 and run.host != first.name and not alive(recipe)

    wait_until(is_resumed, 60, lambda: f"{run.state}, attempt {run.attempt}: {run.error}")
    wait_for_end(run)
    assert (run.state, run.attempt, run.result["digest"]) == (State.SUCCEEDED, 2, digest_of(60))
    ended = Run.objects.values().get(pk=run.pk)
    first.connect()
    wait_until(lambda: "the lease was lost to another worker" in late.said(), 60, late.said)
    assert Run.objects.values().get(pk=run.pk) == ended
    texts = RunEvent.objects.filter(run=run, event="message").values_list("data__text", flat=True)
    assert any("resumed from step" in text for text in texts)
    for _, worker in workers.values():
        worker.kill()

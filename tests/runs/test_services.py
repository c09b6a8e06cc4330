import os
import subprocess
import sys
import uuid

import pytest
from django.db import transaction

from accounts.models import AuditEntry
from runs import execution, kinds, messages, services
from runs.models import Run, State
from runs.services import InvalidConfig
from runs.supervision import machine_slots
from tests.worker import database_url, empty_queues, wait_for_end, wait_until

KINDS = "tests.runs.kinds"


def start(word="hello", request_id=None, **config) -> Run:
    return services.start("counting", config, None, inputs={"word": word}, request_id=request_id)


@pytest.mark.django_db
def test_the_frozen_config_includes_defaults_and_decided_settings():
    run = start(total=7)
    assert run.config == {
        "total": 7, "checkpoint_every": 2, "delay": 0.0, "trouble": "none", "at": 3,
        "loud": False, "word": "hello",
    }  # fmt: skip
    assert run.state == State.QUEUED
    assert AuditEntry.objects.get().action == "start"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("config", "word", "errors"),
    [
        ({"total": 0}, "a", {"total": "Must be at least 1."}),
        ({"total": "many"}, "a", {"total": "Expected a whole number, got 'many'."}),
        ({"tota": 1}, "a", {"tota": "CountingConfig has no such setting."}),
        ({"total": 1}, "a", {"checkpoint_every": "There would be no checkpoint at all."}),
        ({}, "refused", {"inputs": "This word cannot be counted with."}),
    ],
)
def test_a_run_that_cannot_run_is_not_queued(config, word, errors):
    with pytest.raises(InvalidConfig) as raised:
        start(word, **config)
    assert raised.value.errors == errors
    assert not Run.objects.exists()
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db
def test_an_unknown_kind_is_refused_with_the_known_kinds():
    with pytest.raises(InvalidConfig, match="counting"):
        services.start("alchemy", {}, None, inputs={})


@pytest.mark.django_db
def test_repeating_a_request_starts_one_run():
    request_id = uuid.uuid4()
    assert start(request_id=request_id).pk == start(request_id=request_id).pk
    assert Run.objects.count() == 1
    assert AuditEntry.objects.count() == 1


@pytest.mark.django_db
def test_a_request_id_with_other_settings_is_refused():
    request_id = uuid.uuid4()
    start(request_id=request_id)
    with pytest.raises(InvalidConfig, match="already started run"):
        start(request_id=request_id, total=9)


@pytest.mark.django_db(transaction=True)
def test_the_message_is_sent_after_commit_and_not_after_a_rollback():
    empty_queues()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        start()
        assert messages.pending_messages() == 0
        raise ZeroDivisionError
    assert messages.pending_messages() == 0
    with transaction.atomic():
        run = start()
        assert messages.pending_messages() == 0
    assert messages.pending_messages() == 1
    run.refresh_from_db()
    assert run.message_sent_at
    empty_queues()


START = """
import time, django
django.setup()
import tests.runs.kinds
from runs import services
began = time.monotonic()
services.start("counting", {}, None, inputs={"word": "hello"})
print(time.monotonic() - began)
"""


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_starting_a_run_without_a_broker_returns_quickly():
    environment = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "TIEBREAK_SECRET_KEY": "a key that signs nothing here",
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3
    assert "the broker does not answer" in done.stderr
    run = Run.objects.get()
    assert (run.state, run.message_sent_at) == (State.QUEUED, None)


def test_the_reaper_resends_lost_messages(celery_worker, begin):
    run = begin(send=False)
    celery_worker(include=KINDS)
    wait_for_end(run)
    assert run.state == State.SUCCEEDED


@pytest.mark.django_db(transaction=True)
def test_waiting_messages_are_not_resent():
    empty_queues()
    start()
    start()
    assert messages.pending_messages() == 2
    Run.objects.update(message_sent_at=None)
    messages.notify_overdue()
    assert messages.pending_messages() == 2
    empty_queues()


@pytest.mark.django_db
def test_a_second_delivery_does_nothing(runs_dir):
    run = execution.run_now(start().pk)
    execution.execute_next()
    execution.execute_next()
    run.refresh_from_db()
    assert (run.state, run.attempt, run.fencing_token) == (State.SUCCEEDED, 1, 1)


@pytest.mark.django_db
def test_a_busy_machine_claims_no_second_run(runs_dir):
    run = start()
    with machine_slots.acquire() as slot:
        assert slot
        execution.execute_next()
    run.refresh_from_db()
    assert (run.state, run.attempt) == (State.QUEUED, 0)
    execution.execute_next()
    run.refresh_from_db()
    assert run.state == State.SUCCEEDED


def test_a_worker_executes_runs_one_after_the_other(celery_worker, begin):
    celery_worker(include=KINDS)
    runs = [begin(total=10, delay=0.03) for _ in range(3)]
    most = 0

    def ended() -> bool:
        nonlocal most
        states = list(Run.objects.values_list("state", flat=True))
        most = max(most, states.count(State.RUNNING))
        return states.count(State.SUCCEEDED) == 3

    wait_until(ended, 30)
    assert most == 1
    finished = list(Run.objects.order_by("finished_at").values_list("pk", flat=True))
    assert finished == [run.pk for run in runs]


@pytest.mark.django_db
def test_cancelling_a_queued_run_ends_it_immediately():
    run = start()
    assert services.cancel(run, None)
    run.refresh_from_db()
    assert run.state == State.CANCELLED
    assert not services.cancel(run, None)


@pytest.mark.django_db
def test_kinds_have_unique_names():
    import dataclasses

    twin = dataclasses.replace(kinds.get("counting"), title="Twin")
    with pytest.raises(ValueError, match="Two run kinds"):
        kinds.register(twin)
    assert kinds.get("counting").title == "Counting"

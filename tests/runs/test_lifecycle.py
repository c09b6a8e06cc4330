"""Tests of the transitions of a run's state, alone and under concurrency."""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from accounts.models import AuditEntry
from runs import execution, lifecycle
from runs.lifecycle import Lease, LeaseLost
from runs.models import ENDED, Artifact, Run, RunEvent, State

FIELDS = [field.attname for field in Run._meta.concrete_fields]


def in_state(state: State, **fields) -> Run:
    """Create a run in that state, within the database's constraints."""
    if state == State.RUNNING:
        fields = {"lease_expires_at": Now() + timedelta(seconds=30), "fencing_token": 1, **fields}
    if state in ENDED:
        fields = {"finished_at": Now(), **fields}
    run = Run.objects.create(kind="counting", state=state, attempt=1, **fields)
    run.refresh_from_db()
    return run


def row(run: Run) -> dict:
    return Run.objects.values(*FIELDS).get(pk=run.pk)


def holding(run: Run) -> Lease:
    return Lease(run.pk, run.fencing_token)


def nothing(run: Run) -> dict:
    return {}


VERBS: dict[str, Callable[[Run], object]] = {
    "claim": lambda run: lifecycle.claim(run.pk, "me"),
    "heartbeat": lambda run: lifecycle.heartbeat(holding(run)),
    "succeed": lambda run: lifecycle.succeed(holding(run), artifacts=[], finish=nothing),
    "fail": lambda run: lifecycle.fail(holding(run), "It broke."),
    "cancel": lambda run: lifecycle.cancel(holding(run)),
    "requeue": lambda run: lifecycle.requeue(holding(run), counted=True),
    "request_cancel": lambda run: lifecycle.request_cancel(run, None),
    "restart": lambda run: lifecycle.restart(run, None),
    "reap": lambda run: lifecycle.reap(),
}
LEGAL = {
    ("claim", State.QUEUED): State.RUNNING,
    ("heartbeat", State.RUNNING): State.RUNNING,
    ("succeed", State.RUNNING): State.SUCCEEDED,
    ("fail", State.RUNNING): State.FAILED,
    ("requeue", State.RUNNING): State.QUEUED,
    ("request_cancel", State.QUEUED): State.CANCELLED,
    ("request_cancel", State.RUNNING): State.RUNNING,
    ("restart", State.FAILED): State.QUEUED,
    ("restart", State.CANCELLED): State.QUEUED,
}


@pytest.mark.django_db
@pytest.mark.parametrize(("verb", "state"), LEGAL)
def test_every_legal_transition_succeeds(verb, state):
    run = in_state(state)
    VERBS[verb](run)
    assert row(run)["state"] == LEGAL[verb, state]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("verb", "state"), [(v, s) for v in VERBS for s in State if (v, s) not in LEGAL]
)
def test_every_illegal_transition_is_refused_and_changes_nothing(verb, state):
    run = in_state(state)
    before = row(run)
    try:
        done = VERBS[verb](run)
    except LeaseLost:
        done = None
    assert not done
    assert row(run) == before
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db
def test_a_worker_regains_only_reaped_runs_without_an_owner():
    def reaped(**fields) -> Run:
        run = in_state(
            State.RUNNING, **{"lease_expires_at": Now() - timedelta(seconds=1), **fields}
        )
        lifecycle.reap()
        return run

    waiting, lost = reaped(), in_state(State.FAILED, error=lifecycle._lost_too_often())
    lost_lease = Lease(lost.pk, lost.fencing_token)
    assert lifecycle.regain(Lease(waiting.pk, 1), "me") == Lease(waiting.pk, 2)
    assert lifecycle.regain(lost_lease, "me") == Lease(lost.pk, lost_lease.token + 1)
    for run in (waiting, lost):
        assert (row(run)["state"], row(run)["attempt"], row(run)["error"]) == ("running", 1, "")
    claimed, cancelled, failed = reaped(), reaped(), in_state(State.FAILED, error="It broke.")
    lifecycle.claim(claimed.pk, "another")
    lifecycle.request_cancel(cancelled, None)
    for run, token in ((claimed, 1), (cancelled, 1), (failed, failed.fencing_token)):
        before = row(run)
        assert lifecycle.regain(Lease(run.pk, token), "me") is None
        assert row(run) == before


@pytest.mark.django_db
@pytest.mark.parametrize("verb", ["fail", "requeue"])
def test_a_run_with_a_cancel_request_ends_as_cancelled(verb):
    run = in_state(State.RUNNING, cancel_requested_at=Now())
    VERBS[verb](run)
    assert (row(run)["state"], row(run)["error"]) == (State.CANCELLED, "")


@pytest.mark.django_db
@pytest.mark.parametrize("verb", ["heartbeat", "succeed", "fail", "cancel", "requeue"])
def test_a_worker_that_wakes_up_late_changes_nothing(verb):
    run = in_state(State.RUNNING, fencing_token=2, cancel_requested_at=Now())
    before = row(run)
    run.fencing_token = 1
    with pytest.raises(LeaseLost):
        VERBS[verb](run)
    assert row(run) == before


@pytest.mark.django_db
def test_events_progress_and_rows_of_a_late_worker_are_not_stored():
    run = in_state(State.RUNNING, fencing_token=2)
    late = Lease(run.pk, 1)
    event = RunEvent(run=run, number=1, at=run.created_at, event="message", data={})
    with pytest.raises(LeaseLost):
        lifecycle.record(late, [event], (3, 5))
    artifact = Artifact(run=run, name="a", path="/a", bytes=1, sha256="0")
    with pytest.raises(LeaseLost):
        lifecycle.succeed(late, artifacts=[artifact], finish=lambda run: pytest.fail("called"))
    assert not RunEvent.objects.exists()
    assert not Artifact.objects.exists()
    run.refresh_from_db()
    assert (run.step, run.total_steps) == (0, 0)


@pytest.mark.django_db
def test_a_claim_counts_the_attempt_and_gives_a_new_token():
    run = in_state(State.QUEUED, fencing_token=6)
    lease = lifecycle.claim(run.pk, "host:1:2")
    run.refresh_from_db()
    assert lease == Lease(run.pk, 7)
    assert (run.fencing_token, run.attempt, run.lease_owner) == (7, 2, "host:1:2")
    assert run.started_at


@pytest.mark.django_db
def test_later_attempts_keep_the_first_start_time():
    run = in_state(State.QUEUED)
    lease = lifecycle.claim(run.pk, "a")
    first = row(run)["started_at"]
    lifecycle.requeue(lease, counted=False)
    lifecycle.claim(run.pk, "b")
    assert row(run)["started_at"] == first
    assert row(run)["attempt"] == 2


@pytest.mark.django_db
def test_success_is_atomic():
    run = in_state(State.RUNNING)

    def finish(current: Run) -> dict:
        Run.objects.create(kind="made by finish")
        raise ValueError("no report")

    artifact = Artifact(run=run, name="a", path="/a", bytes=1, sha256="0")
    with pytest.raises(ValueError, match="no report"):
        lifecycle.succeed(holding(run), artifacts=[artifact], finish=finish)
    assert row(run)["state"] == State.RUNNING
    assert not Artifact.objects.exists()
    assert not Run.objects.filter(kind="made by finish").exists()


@pytest.mark.django_db
def test_an_event_copied_twice_is_stored_once():
    run = in_state(State.RUNNING)

    def events() -> list[RunEvent]:
        at = run.created_at
        return [RunEvent(run=run, number=n, at=at, event="message", data={}) for n in (1, 2)]

    lifecycle.record(holding(run), events(), (1, 4))
    lifecycle.record(holding(run), events(), (2, 4))
    assert RunEvent.objects.filter(run=run).count() == 2
    assert row(run)["step"] == 2


# --- the reaper -----------------------------------------------------------------------------------


def silent(**fields) -> Run:
    return in_state(State.RUNNING, lease_expires_at=Now() - timedelta(seconds=1), **fields)


@pytest.mark.django_db
def test_the_reaper_requeues_the_runs_of_a_dead_worker():
    run, healthy = silent(), in_state(State.RUNNING)
    assert lifecycle.reap() == [run.pk]
    assert row(run)["state"] == State.QUEUED
    assert row(healthy)["state"] == State.RUNNING
    with pytest.raises(LeaseLost):
        lifecycle.heartbeat(holding(run))


@pytest.mark.django_db
def test_the_reaper_fails_a_run_after_its_last_attempt(settings):
    settings.RUN_MAX_ATTEMPTS = 3
    run = silent()
    Run.objects.filter(pk=run.pk).update(attempt=3)
    assert lifecycle.reap() == []
    assert row(run)["state"] == State.FAILED
    assert "lost 3 times" in row(run)["error"]


@pytest.mark.django_db
@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_jump_of_the_clock_costs_no_attempt_and_delays_no_reaping(jump, settings):
    run = in_state(State.RUNNING, lease_expires_at=Now() - jump)
    assert lifecycle.reap() == []
    end = Run.objects.annotate(left=F("lease_expires_at") - Now()).get().left
    assert timedelta(0) < end <= timedelta(seconds=settings.RUN_LEASE_SECONDS)
    lifecycle.heartbeat(holding(run))


@pytest.mark.django_db
def test_the_reaper_gives_workers_time_after_a_restart_of_the_database(settings):
    run = silent()
    settings.RUN_LEASE_SECONDS = int(lifecycle.database_uptime().total_seconds()) + 1000
    execution.reap()
    assert row(run)["state"] == State.RUNNING
    settings.RUN_LEASE_SECONDS = 0
    execution.reap()
    assert row(run)["state"] == State.QUEUED


@pytest.mark.django_db
def test_the_reaper_ends_a_cancelled_run_whose_worker_died():
    run = silent(cancel_requested_at=Now())
    lifecycle.reap()
    assert row(run)["state"] == State.CANCELLED


@pytest.mark.django_db(transaction=True)
def test_the_reaper_skips_a_run_that_is_ending():
    run = silent()
    reaped: list = []

    def finish(current: Run) -> dict:
        thread = threading.Thread(target=apart, args=(lambda: reaped.append(lifecycle.reap()),))
        thread.start()
        thread.join(10)
        return {}

    lifecycle.succeed(holding(run), artifacts=[], finish=finish)
    assert reaped == [[]]
    assert row(run)["state"] == State.SUCCEEDED


# --- concurrency ----------------------------------------------------------------------------------


def apart(work: Callable[[], object]) -> None:
    try:
        work()
    finally:
        connection.close()


def all_at_once(*works: Callable[[], object]) -> list:
    """Run the calls concurrently, each with its own connection; return results except LeaseLost."""
    barrier, done = threading.Barrier(len(works)), []

    def one(work: Callable[[], object]) -> None:
        barrier.wait(10)
        with suppress(LeaseLost):
            done.append(work())

    threads = [threading.Thread(target=apart, args=(lambda w=w: one(w),)) for w in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return done


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round", range(4))
def test_exactly_one_of_many_workers_claims_a_run(round):
    run = in_state(State.QUEUED)
    claims = all_at_once(*[lambda n=n: lifecycle.claim(run.pk, f"w{n}") for n in range(8)])
    assert len([lease for lease in claims if lease]) == 1
    assert row(run)["attempt"] == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round", range(4))
def test_exactly_one_of_many_ends_succeeds(round):
    run = in_state(State.RUNNING, cancel_requested_at=Now())
    ends = [VERBS[verb] for verb in ("succeed", "fail", "cancel", "requeue")] * 2
    done = all_at_once(*[lambda end=end: (end(run), "done") for end in ends])
    assert len(done) == 1


@pytest.mark.django_db(transaction=True)
def test_a_concurrent_claim_and_cancel_are_both_kept():
    for _ in range(8):
        run = in_state(State.QUEUED)
        all_at_once(
            lambda r=run: lifecycle.claim(r.pk, "w"),
            lambda r=run: lifecycle.request_cancel(r, None),
        )
        now = row(run)
        assert now["cancel_requested_at"]
        assert now["state"] in (State.CANCELLED, State.RUNNING)

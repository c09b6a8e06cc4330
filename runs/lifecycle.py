"""The state transitions of runs. Only this module changes a run's state, always by a conditional update.

    from               function         to
    queued             claim            running
    queued             request_cancel   cancelled
    queued             launch_failed    queued, or failed after the last attempt
    running            request_cancel   running, until its worker has stopped the recipe
    running            succeed          succeeded
    running            fail             failed
    running            cancel           cancelled
    running            requeue          queued
    running            reap             queued, or failed after the last attempt
    queued or failed   regain           running, for the worker whose run the reaper took
    failed, cancelled  restart          queued

If cancelling was requested, `fail`, `requeue` and `reap` end the run as cancelled instead.

A worker has a Lease, and all its writes check the lease's fencing token. A worker that wakes up after
the reaper has requeued its run therefore changes nothing. All times come from the database, because the
clocks of machines differ.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Coalesce, Greatest, Now

from accounts.models import User, audit
from runs.models import Artifact, Priority, Run, RunEvent, State

logger = logging.getLogger("tiebreak.runs")

WORKER_LOST = "Its worker was lost"
"""The beginning of the error of a run that the reaper has ended, by which `regain` recognises it."""


class LeaseLost(Exception):  # noqa: N818
    """Raised if this worker no longer holds the run. The caller must stop the recipe and return."""


@dataclass(frozen=True)
class Lease:
    """A worker's claim on a run. A newer claim has a higher token."""

    run_id: int
    token: int


def _lease_end() -> CombinedExpression:
    return Now() + timedelta(seconds=settings.RUN_LEASE_SECONDS)


def _leased_run(lease: Lease) -> Any:
    return Run.objects.filter(
        pk=lease.run_id, state=State.RUNNING, fencing_token=lease.token
    ).order_by()


def _end_fields(state: State, **fields: Any) -> dict[str, Any]:
    return {
        "state": state,
        "finished_at": Now(),
        "lease_expires_at": None,
        "lease_owner": "",
        **fields,
    }


def _queued(**fields: Any) -> dict[str, Any]:
    return {
        "state": State.QUEUED,
        "finished_at": None,
        "lease_expires_at": None,
        "lease_owner": "",
        "message_sent_at": None,
        **fields,
    }


def claim(run_id: int, owner: str, *, token: int | None = None) -> Lease | None:
    """Claim a queued run for this worker. Return None if the run is not queued.

    With `token`, which `reserve` returned, also return None if it is no longer the run's token.
    """
    with transaction.atomic():
        waiting = Run.objects.filter(pk=run_id, state=State.QUEUED)
        taken = (waiting if token is None else waiting.filter(fencing_token=token)).update(
            state=State.RUNNING,
            attempt=F("attempt") + 1,
            fencing_token=F("fencing_token") + 1,
            lease_owner=owner[:200],
            lease_expires_at=_lease_end(),
            heartbeat_at=Now(),
            started_at=Coalesce(F("started_at"), Now()),
        )
        if not taken:
            return None
        return Lease(run_id, Run.objects.values_list("fencing_token", flat=True).get(pk=run_id))


def claim_next(owner: str) -> Lease | None:
    """Claim the first run in the queue. Return None if no run is queued.

    It is the run that has waited longest among those with the highest priority.
    """
    while True:
        first = Run.objects.in_queue().values_list("id").first()
        if first is None:
            return None
        if lease := claim(first[0], owner):
            return lease


def reserve(run_id: int, token: int) -> int | None:
    """Raise the fencing token of a queued run from `token`, for a job that is about to be submitted.

    Return the new token, with which only this job can claim the run; jobs submitted earlier cannot.
    Return None if the run is no longer queued, or has another token.
    """
    changed = _submitted(run_id, token).update(
        fencing_token=F("fencing_token") + 1, message_sent_at=Now()
    )
    return token + 1 if changed else None


def note_submission(run_id: int, token: int, *, failed: bool = False) -> None:
    """Store that the job of a queued run was submitted or still waits now, or that this failed."""
    _submitted(run_id, token).update(message_sent_at=None if failed else Now())


def launch_failed(run_id: int, token: int, sentence: str, *, again: bool = True) -> State | None:
    """Count an attempt whose job ended before it claimed the run, which the job then cannot do any more.

    After the last attempt, or unless `again`, end the run as failed. Return the run's new state, or None
    if it is no longer queued or has another token.
    """
    counted = {"attempt": F("attempt") + 1, "fencing_token": F("fencing_token") + 1}
    with transaction.atomic():
        waiting = _submitted(run_id, token)
        last = waiting.filter(attempt__gte=settings.RUN_MAX_ATTEMPTS - 1) if again else waiting
        if last.update(**_end_fields(State.FAILED, error=sentence, **counted)):
            return State.FAILED
        return State.QUEUED if waiting.update(message_sent_at=None, **counted) else None


def _submitted(run_id: int, token: int) -> Any:
    return Run.objects.filter(pk=run_id, state=State.QUEUED, fencing_token=token).order_by()


def record_gpus(lease: Lease, names: Sequence[str]) -> None:
    """Store which GPUs the attempt has, for the page of the queue. Raises LeaseLost."""
    if not _leased_run(lease).update(gpus=list(names)):
        raise LeaseLost


def set_priority(run: Run, priority: Priority, by: User | None) -> bool:
    """Change the priority of a queued run. Return False if it is no longer queued."""
    with transaction.atomic():
        changed = Run.objects.filter(pk=run.pk, state=State.QUEUED).update(priority=priority)
        if changed:
            audit(by, "set priority", run, priority=priority.label)
    return bool(changed)


def heartbeat(lease: Lease) -> None:
    """Renew the lease. Raises LeaseLost if this worker no longer holds the run."""
    if not _leased_run(lease).update(heartbeat_at=Now(), lease_expires_at=_lease_end()):
        raise LeaseLost


def regain(lease: Lease, owner: str) -> Lease | None:
    """Claim a run again after the reaper has taken it from this worker.

    This is for a worker whose recipe finished while the database was unavailable, so that the lease
    expired although the results are valid. The attempt number does not change. Return None if another
    worker has claimed the run in the meantime.
    """
    reaped = Q(state=State.QUEUED) | Q(state=State.FAILED, error__startswith=WORKER_LOST)
    with transaction.atomic():
        taken = Run.objects.filter(
            reaped, pk=lease.run_id, fencing_token=lease.token, cancel_requested_at=None
        ).update(
            state=State.RUNNING,
            fencing_token=F("fencing_token") + 1,
            lease_owner=owner[:200],
            lease_expires_at=_lease_end(),
            heartbeat_at=Now(),
            finished_at=None,
            error="",
        )
    return Lease(lease.run_id, lease.token + 1) if taken else None


def is_held(lease: Lease) -> bool:
    """Return whether the run is still running under this lease. Costs one query."""
    return _leased_run(lease).exists()


def cancel_requested(lease: Lease) -> bool:
    """Return whether cancelling was requested. Raises LeaseLost. Costs one query."""
    at = _leased_run(lease).values_list("cancel_requested_at", flat=True).first()
    if at is None and not _leased_run(lease).exists():
        raise LeaseLost
    return at is not None


def record(lease: Lease, events: list[RunEvent], progress: tuple[int, int] | None) -> None:
    """Store copied events and the progress (step, total). Events that are already stored are skipped.

    Raises LeaseLost, and stores nothing, if this worker no longer holds the run.
    """
    with transaction.atomic():
        if not _leased_run(lease).select_for_update(no_key=True).values_list("pk").first():
            raise LeaseLost
        RunEvent.objects.bulk_create(events, ignore_conflicts=True, batch_size=1000)
        if progress:
            step, total = progress
            _leased_run(lease).update(step=min(step, total) if total else step, total_steps=total)


def succeed(
    lease: Lease, *, artifacts: list[Artifact], finish: Callable[[Run], dict[str, Any]]
) -> None:
    """End the run as succeeded, and store its artifacts and the rows that `finish` creates.

    All of this is one transaction. Raises LeaseLost.
    """
    with transaction.atomic():
        run = _leased_run(lease).select_for_update(no_key=True).first()
        if run is None:
            raise LeaseLost
        Artifact.objects.filter(run=run).delete()
        Artifact.objects.bulk_create(artifacts)
        result = finish(run)
        _leased_run(lease).update(
            **_end_fields(
                State.SUCCEEDED, result=result, error="", step=Greatest("step", "total_steps")
            )
        )


def fail(lease: Lease, sentence: str) -> None:
    """End the run as failed, or as cancelled if cancelling was requested. Raises LeaseLost."""
    running = _leased_run(lease).filter(cancel_requested_at=None)
    if not running.update(**_end_fields(State.FAILED, error=sentence)):
        cancel(lease)


def cancel(lease: Lease) -> None:
    """End a running run for which cancelling was requested. Raises LeaseLost."""
    if (
        not _leased_run(lease)
        .filter(cancel_requested_at__isnull=False)
        .update(**_end_fields(State.CANCELLED))
    ):
        raise LeaseLost


def requeue(lease: Lease, *, counted: bool) -> None:
    """Put a running run back into the queue, or end it if cancelling was requested.

    `counted` is whether the attempt counts towards the maximum. Raises LeaseLost.
    """
    used = F("attempt") if counted else F("attempt") - 1
    running = _leased_run(lease).filter(cancel_requested_at=None)
    if not running.update(**_queued(attempt=used)):
        cancel(lease)


def request_cancel(run: Run, by: User | None) -> bool:
    """Cancel a queued run immediately, or ask the worker of a running one to stop it.

    Return False if the run has ended or is already being cancelled.
    """
    request = {"cancel_requested_at": Now(), "cancelled_by": by}
    with transaction.atomic():
        waiting = Run.objects.filter(pk=run.pk, state=State.QUEUED)
        running = Run.objects.filter(pk=run.pk, state=State.RUNNING, cancel_requested_at=None)
        done = waiting.update(**_end_fields(State.CANCELLED, **request)) or running.update(
            **request
        )
        if done:
            audit(by, "cancel", run)
    return bool(done)


def restart(run: Run, by: User | None) -> bool:
    """Put a failed or cancelled run back into the queue, to resume from its last checkpoint.

    If it is archived, it is restored. Return False if the run is in another state. The caller must send the message after the commit.
    """
    with transaction.atomic():
        done = Run.objects.filter(pk=run.pk, state__in=[State.FAILED, State.CANCELLED]).update(
            **_queued(
                attempt=0, error="", cancel_requested_at=None, cancelled_by=None, archived_at=None
            )
        )
        if done:
            audit(by, "restart", run)
    return bool(done)


def database_uptime() -> timedelta:
    """Return the time since PostgreSQL was started. Costs one query."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp() - pg_postmaster_start_time()")
        return cursor.fetchone()[0]


def reap() -> list[int]:
    """Requeue runs whose worker has not renewed its lease in time, and return their ids.

    If cancelling was requested or the run was lost too often, it ends as cancelled or failed instead.
    Runs that their worker is ending at this moment are skipped.
    """
    _correct_leases()
    with transaction.atomic():
        silent = list(
            Run.objects.select_for_update(skip_locked=True, no_key=True)
            .filter(state=State.RUNNING, lease_expires_at__lt=Now())
            .order_by("id")
            .values_list("id", flat=True)[:100]
        )
        lost = Run.objects.filter(pk__in=silent)
        unwanted = Q(cancel_requested_at__isnull=False)
        lost.filter(unwanted).update(**_end_fields(State.CANCELLED))
        lost.filter(state=State.RUNNING, attempt__gte=settings.RUN_MAX_ATTEMPTS).update(
            **_end_fields(State.FAILED, error=_lost_too_often())
        )
        waiting = list(lost.filter(state=State.RUNNING).values_list("id", flat=True))
        Run.objects.filter(pk__in=waiting).update(**_queued())
    for run_id in silent:
        logger.warning("Run %s: its worker has been silent for too long.", run_id)
    return waiting


def _correct_leases() -> None:
    """Let leases that end impossibly late or early end one lease from now.

    No worker has set such an end by the present clock: the clock was set, the machine was suspended, or
    the database or the reaper was down for long. A worker that lives renews its lease in time, and a
    run whose worker has died waits neither for an hour nor forever.
    """
    limit = timedelta(seconds=60 + 2 * settings.RUN_LEASE_SECONDS)
    wrong = Q(lease_expires_at__lt=Now() - limit) | Q(lease_expires_at__gt=Now() + limit)
    Run.objects.filter(wrong, state=State.RUNNING).update(lease_expires_at=_lease_end())


def _lost_too_often() -> str:
    times = settings.RUN_MAX_ATTEMPTS
    return (
        f"{WORKER_LOST} {times} {'time' if times == 1 else 'times'}, so the run was "
        "ended. Check for machines that restart or run out of memory, then continue the run."
    )

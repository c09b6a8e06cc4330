"""Execute queued runs: the work of a worker, and of commands that run in the foreground."""

import time

from runs import lifecycle
from runs.messages import notify_waiting
from runs.models import ENDED, Run, State
from runs.supervision import machine_slots, supervisor

FOLLOW_SECONDS = 0.5


def execute(run_id: int) -> None:
    """Execute the oldest queued run if this machine has a free slot.

    A worker calls this for each message. The oldest run may be another one than the run in the message,
    `run_id`. If runs are still queued when it ends, a worker is notified.
    """
    with machine_slots.acquire() as slot:
        if slot is None or supervisor.SHUTTING_DOWN.is_set():
            return
        lease = lifecycle.claim_oldest(supervisor.owner())
        if lease is None:
            return
        slot.note(lease)
        supervisor.supervise(lease, slot)
    notify_waiting(limit=1)


def run_now(run_id: int) -> Run:
    """Claim and supervise a run in the foreground, and return it when it has ended.

    If a worker has already claimed it, wait until it ends. Ctrl-C cancels the run.
    """
    run = Run.objects.get(pk=run_id)
    try:
        while run.state not in ENDED:
            lease = lifecycle.claim(run_id, supervisor.owner())
            if lease:
                supervisor.supervise(lease)
            else:
                time.sleep(FOLLOW_SECONDS)
            run.refresh_from_db()
    except KeyboardInterrupt:
        _give_up(run)
        raise
    return run


def _give_up(run: Run) -> None:
    """Cancel a run whose recipe was killed by Ctrl-C, and end it if this process holds it."""
    lifecycle.request_cancel(run, None)
    run.refresh_from_db()
    if run.state == State.RUNNING and run.lease_owner == supervisor.owner():
        lifecycle.cancel(lifecycle.Lease(run.pk, run.fencing_token))


def reap() -> None:
    """Requeue the runs of dead workers, and notify workers of runs whose message was lost."""
    lifecycle.reap()
    notify_waiting(limit=100)

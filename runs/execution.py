"""Execute queued runs: the work of workers, of a cluster's jobs, and of commands in the foreground."""

import logging
import time
from contextlib import ExitStack
from datetime import timedelta

from django.conf import settings

from formatting.log_lines import log_ids
from recipes.machine import faults
from runs import launchers, lifecycle
from runs.kinds import CannotRun
from runs.messages import notify_submitter
from runs.models import ENDED, Run, State
from runs.supervision import machine_report, machine_slots, supervisor

logger = logging.getLogger("tiebreak.runs")

FOLLOW_SECONDS = 0.5


def execute_next() -> None:
    """Execute the first run in the queue if this machine has a free slot and space on its disks.

    A worker calls this for each message. If runs are still queued when it ends, a worker is notified.
    While the disk is full or read-only, runs stay in the queue, and the page of the queue has the reason.
    The reaper sends their messages again.
    """
    with ExitStack() as stack:
        try:
            slot = stack.enter_context(machine_slots.acquire())
            problem = machine_report.storage_problem()
        except OSError as error:
            slot, problem = None, _why_locked_out(error)
        if problem:
            logger.error("This machine starts no runs. %s", problem)
            machine_report.report(problem)
            return
        if slot is None or supervisor.SHUTTING_DOWN.is_set():
            return
        lease = lifecycle.claim_next(supervisor.owner())
        if lease is None:
            return
        slot.note(lease)
        with log_ids(run=str(lease.run_id)):
            supervisor.supervise(lease, slot)
    launchers.chosen().run_ended()


def execute_job(run_id: int, token: int) -> bool:
    """Execute the run for which a cluster's job was submitted with this token.

    Return False, and change nothing, if the run no longer waits for this job. Raises CannotRun, and
    leaves the run in the queue, if the disk of this node is full or read-only.
    """
    if problem := machine_report.storage_problem():
        machine_report.report(problem)
        raise CannotRun(problem)
    lease = lifecycle.claim(run_id, supervisor.owner(), token=token)
    if lease is None:
        return False
    machine_report.start()
    with log_ids(run=str(run_id)):
        supervisor.supervise(lease)
    notify_submitter()
    return True


def _why_locked_out(error: OSError) -> str:
    """Return why the slots cannot be used as a sentence."""
    problem = faults.storage_problem(error, settings.VAR_DIR)
    return problem or f"The worker cannot lock its slot: {error}."


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
    """Requeue the runs of dead workers, and notify workers of runs whose message was lost.

    After a restart of the database, workers first get the time to renew their leases.
    """
    if lifecycle.database_uptime() > timedelta(seconds=settings.RUN_LEASE_SECONDS):
        lifecycle.reap()
    launchers.chosen().start_overdue()

"""The launcher for a Ray cluster. It submits a job for each queued run.

The job is `manage.py execute_run RUN TOKEN` on a node of the cluster. It claims the run, supervises it
and renews its lease as a worker does, directly in PostgreSQL. Once it has claimed the run, Ray's
opinion does not matter: only the lease says whether it lives.

Before the claim there is no lease, so Ray is asked. Each submission first raises the fencing token of
the queued run, and its job can only claim the run with this token. So if a job is submitted twice, or
starts late, after another one was submitted, it finds nothing to claim.

    the job of a queued run        effect
    is unknown to Ray              it is submitted again, after one lease: the head node was lost
    was lost with its node         it is submitted again
    waits for a free node          nothing
    has run for long               counts as a failed attempt, and it is stopped and submitted again
    has ended with a status        counts as a failed attempt, and it is submitted again
"""

import logging
import shlex
import time
from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.db.models.functions import Now

from runs import kinds, lifecycle, messages
from runs.kinds import CannotRun
from runs.launchers.ray_jobs import PENDING, RUNNING, Job, RayError, RayJobs, Resources, connect
from runs.models import Run, State

logger = logging.getLogger("tiebreak.runs")

MAX_RUNS = 200
KEEP_MS = 24 * 3600 * 1000
"""How long the cluster keeps the records and the logs of jobs that have ended, in milliseconds."""


class RayLauncher:
    """All requests to the cluster are made by a worker, as they may take seconds."""

    def run_queued(self, run_id: int) -> None:
        messages.notify_submitter()

    def run_ended(self) -> None:
        messages.notify_submitter()

    def start_overdue(self) -> None:
        submit_queued()


def job_id(run_id: int, token: int) -> str:
    return f"run-{run_id}-{token}"


def submit_queued() -> None:
    """Submit jobs for the first queued runs, and stop jobs that are no longer wanted.

    At most TIEBREAK_RAY_PENDING_JOBS jobs wait for the cluster at a time, so that priorities are
    respected. If the cluster does not answer, a warning is logged and the runs wait.
    """
    # The rows are read before the jobs, so that a row whose job is missing was not submitted just now.
    runs = _queued()
    with connect(settings.RAY_ADDRESS, settings.RAY_TOKEN) as ray:
        try:
            jobs = ray.all()
            _start(ray, runs, jobs)
            _tidy(ray, jobs)
        except RayError as error:
            logger.warning("Queued runs wait: %s", error)


def _queued() -> list[Run]:
    recently = Q(message_sent_at__gte=Now() - timedelta(seconds=settings.RUN_LEASE_SECONDS))
    slow = Q(message_sent_at__lt=Now() - timedelta(seconds=settings.RAY_START_SECONDS))
    rows = Run.objects.in_queue().annotate(
        submitted_recently=ExpressionWrapper(recently, output_field=BooleanField()),
        starts_slowly=ExpressionWrapper(slow, output_field=BooleanField()),
    )
    return list(rows[:MAX_RUNS])


def _start(ray: RayJobs, runs: Iterable[Run], jobs: dict[str, Job]) -> None:
    waiting = 0
    for run in runs:
        if waiting >= settings.RAY_PENDING_JOBS:
            return
        job = job_of(run, jobs)
        if job is None:
            if run.submitted_recently or _submit(ray, run):  # type: ignore[attr-defined]
                waiting += 1
        elif not job.is_alive and job.exit_status is None:
            waiting += _submit(ray, run)
        elif not job.is_alive:
            _count_failure(run, job)
        elif job.status == RUNNING and run.starts_slowly:  # type: ignore[attr-defined]
            if _count_failure(run, job):
                ray.stop(job.id)
        else:
            waiting += 1
            if job.status == PENDING:
                lifecycle.note_submission(run.pk, run.fencing_token)


def job_of(run: Run, jobs: dict[str, Job]) -> Job | None:
    """Return the job that may claim the run, or None. A job of another installation is not returned."""
    job = jobs.get(job_id(run.pk, run.fencing_token))
    return job if job and job.request_id == str(run.request_id) else None


def _submit(ray: RayJobs, run: Run) -> bool:
    """Submit a job for the run. Return False if the run is no longer queued, or cannot be executed."""
    token = lifecycle.reserve(run.pk, run.fencing_token)
    if token is None:
        return False
    try:
        resources = resources_for(run)
    except CannotRun as error:
        lifecycle.launch_failed(run.pk, token, str(error), again=False)
        return False
    try:
        ray.submit(
            job_id(run.pk, token), command(run.pk, token), resources, request_id=str(run.request_id)
        )
    except RayError:
        lifecycle.note_submission(run.pk, token, failed=True)
        raise
    logger.info("Run %s: job %s was submitted.", run.pk, job_id(run.pk, token))
    return True


def command(run_id: int, token: int) -> str:
    """Return the shell command of a job. It contains no secret, since the cluster's pages show it."""
    arguments = [settings.RAY_PYTHON, "manage.py", "execute_run", str(run_id), str(token)]
    return f"cd {shlex.quote(settings.RAY_FOLDER)} && exec {shlex.join(arguments)}"


def resources_for(run: Run) -> Resources:
    """Return what the run needs from a node. Raises CannotRun if no installed app has its kind."""
    kind = kinds.get(run.kind)
    gpus = 0
    if kind.uses_gpu and settings.RAY_GPUS:
        gpus = settings.RAY_GPUS if kind.multi_gpu else 1
    return Resources(settings.RAY_CPUS, gpus, settings.RAY_RESOURCES)


def _count_failure(run: Run, job: Job) -> bool:
    """Count a job that did not start its run. Return False if the run is no longer queued for it."""
    what = "did not start the run in time" if job.is_alive else "ended before it started the run"
    sentence = (
        f"The job {job.id} of the Ray cluster {what}. Ray says: {job.message} Check the log of the "
        "job in Ray, and that each node has the settings of a worker. Then continue the run."
    )
    state = lifecycle.launch_failed(run.pk, run.fencing_token, sentence)
    if state:
        logger.warning("Run %s (%s): %s", run.pk, state, sentence)
    return state is not None


def _tidy(ray: RayJobs, jobs: dict[str, Job]) -> None:
    """Stop waiting jobs that can no longer claim their run, and delete old records of jobs."""
    ids = {job.request_id for job in jobs.values() if is_uuid(job.request_id)}
    rows = Run.objects.filter(request_id__in=ids)
    mine = {
        str(row["request_id"]): row
        for row in rows.values("pk", "request_id", "state", "fencing_token")
    }
    oldest_ms = time.time() * 1000 - KEEP_MS
    for job in jobs.values():
        row = mine.get(job.request_id)
        if row is None:
            continue  # another installation's, or another program's
        wanted = row["state"] == State.QUEUED and job.id == job_id(row["pk"], row["fencing_token"])
        if job.status == PENDING and not wanted:
            ray.stop(job.id)
        elif not job.is_alive and 0 < job.ended_ms < oldest_ms:
            ray.delete(job.id)


def is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False

import signal
from typing import Any

from celery import shared_task
from celery.signals import beat_embedded_init, worker_ready, worker_shutting_down
from django.conf import settings

from runs import execution, launchers, preflight
from runs.launching import first_batch
from runs.messages import QUEUE
from runs.notices import sending, webhooks
from runs.supervision import machine_report
from runs.supervision.supervisor import SHUTTING_DOWN
from runs.supervision.watchdog import PR_SET_PDEATHSIG, prctl


@shared_task
def execute(run_id: int) -> None:
    """Execute the first run in the queue. It may be another one than `run_id`, which is only for the log.

    If a cluster executes runs, this does nothing: the message is from an earlier configuration.
    """
    if settings.LAUNCHER == "local":
        execution.execute_next()


@shared_task
def submit_jobs() -> None:
    """Submit queued runs to the cluster. Only the launcher for Ray sends this task."""
    launchers.chosen().start_overdue()


@shared_task
def measure_forecast(forecast_id: int) -> None:
    preflight.measure(forecast_id)


@shared_task
def read_first_batch(key: str) -> None:
    first_batch.compute(key)


@shared_task
def reap() -> None:
    execution.reap()


@shared_task
def send_notices() -> None:
    sending.send_due()
    webhooks.announce_ended()


@worker_ready.connect
def report_machine(sender: Any = None, **kwargs: object) -> None:
    """Report the machine of a worker that executes runs, but not those of other workers."""
    if QUEUE in sender.app.amqp.queues.consume_from:
        machine_report.start()


@worker_shutting_down.connect
def stop_recipes(**kwargs: object) -> None:
    SHUTTING_DOWN.set()


@beat_embedded_init.connect
def end_with_worker(**kwargs: object) -> None:
    """Let the separate process that `--beat` starts end when its worker is killed."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

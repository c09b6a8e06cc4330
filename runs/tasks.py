import signal

from celery import shared_task
from celery.signals import beat_embedded_init, worker_shutting_down

from runs import execution
from runs.supervision.supervisor import SHUTTING_DOWN
from runs.supervision.watchdog import PR_SET_PDEATHSIG, prctl


@shared_task
def execute(run_id: int) -> None:
    execution.execute(run_id)


@shared_task
def reap() -> None:
    execution.reap()


@worker_shutting_down.connect
def stop_recipes(**kwargs: object) -> None:
    SHUTTING_DOWN.set()


@beat_embedded_init.connect
def end_with_worker(**kwargs: object) -> None:
    """Let the separate process that `--beat` starts end when its worker is killed."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

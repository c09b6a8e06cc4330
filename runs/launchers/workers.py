"""The launcher for machines with a Celery worker each. The workers claim runs from the queue."""

from runs import messages


class WorkerLauncher:
    def run_queued(self, run_id: int) -> None:
        messages.notify_worker(run_id)

    def run_ended(self) -> None:
        messages.notify_next()

    def start_overdue(self) -> None:
        messages.notify_overdue()

from celery import shared_task

from labeling.importing import lifecycle
from labeling.queue import slots
from labeling.reviewing import progress


@shared_task
def release_expired_leases() -> int:
    return slots.release_expired()


@shared_task
def count_large_projects() -> int:
    return progress.count_large_projects()


@shared_task
def read_file(file_import_id: int) -> None:
    lifecycle.execute(file_import_id)


@shared_task
def reap_file_imports() -> int:
    return lifecycle.reap()

from celery import shared_task

from labeling import progress, queue
from labeling.importing import lifecycle


@shared_task
def release_expired_leases() -> int:
    return queue.release_expired()


@shared_task
def count_large_projects() -> int:
    return progress.count_large_projects()


@shared_task
def read_file(file_import_id: int) -> None:
    lifecycle.execute(file_import_id)


@shared_task
def reap_file_imports() -> int:
    return lifecycle.reap()

from celery import shared_task

from labeling import progress, queue


@shared_task
def release_expired_leases() -> int:
    return queue.release_expired()


@shared_task
def count_large_projects() -> int:
    return progress.count_large_projects()

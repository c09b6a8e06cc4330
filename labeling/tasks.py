from celery import shared_task

from labeling import counts, queue


@shared_task
def release_expired_leases() -> int:
    return queue.release_expired()


@shared_task
def count_large_projects() -> int:
    return counts.count_large_projects()

from celery import shared_task

from labeling import queue


@shared_task
def release_expired_leases() -> int:
    return queue.release_expired()

from celery import shared_task


@shared_task
def reap() -> None:
    pass

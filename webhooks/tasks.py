from celery import shared_task

from webhooks import sending


@shared_task
def send_webhooks() -> int:
    return sending.send_due()


@shared_task
def forget_deliveries() -> int:
    return sending.forget_old()

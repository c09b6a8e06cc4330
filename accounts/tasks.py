from celery import shared_task

from accounts.models import IdempotentRequest
from accounts.sign_in import throttle


@shared_task
def forget_old_sign_ins() -> int:
    return throttle.forget_old()


@shared_task
def forget_old_keys() -> int:
    return IdempotentRequest.forget_old()

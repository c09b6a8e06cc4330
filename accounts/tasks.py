from celery import shared_task

from accounts import throttle


@shared_task
def forget_old_sign_ins() -> int:
    return throttle.forget_old()

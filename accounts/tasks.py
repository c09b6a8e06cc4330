from celery import shared_task

from accounts.sign_in import throttle


@shared_task
def forget_old_sign_ins() -> int:
    return throttle.forget_old()

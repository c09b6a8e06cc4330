from celery import shared_task

from accounts import reset
from accounts.models import IdempotentRequest
from accounts.sign_in import throttle


@shared_task
def forget_old_sign_ins() -> int:
    return throttle.forget_old()


@shared_task
def forget_old_keys() -> int:
    return IdempotentRequest.forget_old()


@shared_task
def send_reset_links(text: str, site: str) -> int:
    """Send one-time links to the accounts with this username or e-mail address. Return their number."""
    return reset.send_links(text, site)

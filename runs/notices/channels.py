"""The channels of notices: e-mail to the person who started the run, and the webhook of the operator."""

import json
import smtplib
from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings
from django.core.mail import EmailMessage

from runs.models import Notice
from runs.notices.message import facts_of, subject_of, text_of
from webhooks import http
from webhooks.http import NotSent, short


@dataclass(frozen=True)
class Channel:
    """A way to send notices.

    `is_configured` returns whether the operator has configured it. `send` sends a notice, or does
    nothing if it has no recipient. It raises NotSent.
    """

    is_configured: Callable[[], bool]
    send: Callable[[Notice], None]


# --- e-mail ---------------------------------------------------------------------------------------


def send_email(notice: Notice) -> None:
    """Send the notice to the person who started the run, if the account has an address."""
    user = notice.run.created_by
    if user is None or not user.is_active or not user.email:
        return
    message = EmailMessage(
        subject_of(notice.run), text_of(notice.run), settings.EMAIL_FROM, [user.email]
    )
    try:
        message.send()
    except (OSError, smtplib.SMTPException) as error:
        raise NotSent(f"The mail server did not accept the message: {short(error)}.") from None


# --- the webhook ----------------------------------------------------------------------------------


def send_webhook(notice: Notice) -> None:
    body = json.dumps({"type": f"run.{notice.run.state}", "data": facts_of(notice.run)}).encode()
    status = http.send(
        settings.WEBHOOK_URL,
        body,
        identifier=f"notice-{notice.pk}",
        secret=settings.WEBHOOK_SECRET,
        private=settings.WEBHOOK_PRIVATE,
    )
    if not 200 <= status < 300:
        raise NotSent(f"The webhook answered with status {status}.")


CHANNELS = {
    Notice.Channel.EMAIL: Channel(lambda: bool(settings.EMAIL_URL), send_email),
    Notice.Channel.WEBHOOK: Channel(lambda: bool(settings.WEBHOOK_URL), send_webhook),
}

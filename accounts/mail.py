"""E-mails to people about their accounts. They need TIEBREAK_EMAIL_URL."""

import logging
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import EmailMessage

logger = logging.getLogger("tiebreak.accounts")


def send(to: str, subject: str, text: str) -> bool:
    """Send an e-mail. If the server refuses it, log a warning without the address and return False."""
    line = " ".join(subject.split())  # a name can contain line breaks, which a header must not
    try:
        EmailMessage(line, text, settings.EMAIL_FROM, [to]).send()
    except (SMTPException, OSError) as error:
        logger.warning("An e-mail about an account was not sent: %s", error.__class__.__name__)
        return False
    return True

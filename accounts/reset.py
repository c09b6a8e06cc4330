"""Forgotten passwords: one-time links by e-mail, if the operator has set TIEBREAK_EMAIL_URL.

The page gives the same answer in the same time whether or not the account exists: it passes the text to
a worker, which looks for the account. Nothing secret is in the message to the worker.
"""

import logging
from typing import Any

from celery import current_app
from django import forms
from django.conf import settings
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods
from kombu.exceptions import OperationalError as BrokerError

from accounts import people
from accounts.mail import send
from accounts.models import User
from accounts.sign_in import throttle

logger = logging.getLogger("tiebreak.accounts")

MOST_ACCOUNTS = 5
"""Maximum number of links for one request. Several accounts can have the same e-mail address."""


class ResetForm(forms.Form):
    """A form that counts each request as a failed attempt to sign in, because it sends an e-mail."""

    name = forms.CharField(
        label=gettext_lazy("Username or e-mail address"),
        max_length=254,
        widget=forms.TextInput(attrs={"autocomplete": "username", "autofocus": True}),
    )

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.request = request

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if name := values.get("name"):
            with throttle.attempt(self.request, f"reset of {name}"):
                pass
        return values


@never_cache
@require_http_methods(["GET", "POST"])
def ask(request: HttpRequest) -> HttpResponse:
    """Show the form for a forgotten password and, on POST, have a link sent."""
    available = bool(settings.EMAIL_URL)
    data = request.POST if request.method == "POST" and available else None
    form = ResetForm(data, request=request)
    sent = available and request.method == "POST" and form.is_valid()
    if sent and not _ask_worker(form.cleaned_data["name"], request.build_absolute_uri("/")):
        form.add_error(None, _("E-mails cannot be sent at the moment. Try again later."))
        sent = False
    context = {
        "form": form,
        "available": available,
        "sent": sent,
        "hours": settings.PASSWORD_RESET_TIMEOUT // 3600,
    }
    return render(request, "accounts/reset.html", context, status=422 if form.errors else 200)


def _ask_worker(text: str, site: str) -> bool:
    """Send the text to a worker. Return False if the broker is unavailable."""
    try:
        current_app.send_task("accounts.tasks.send_reset_links", args=[text, site], retry=False)
    except (BrokerError, OSError) as error:
        logger.warning(
            "No link to set a password was sent: the broker does not answer (%s).", error
        )
        return False
    return True


def send_links(text: str, site: str) -> int:
    """Send one-time links to the active accounts with this username or e-mail address.

    Return the number of e-mails. An account without an address gets none.
    """
    named = Q(username=text) | Q(email__iexact=text)
    accounts = User.objects.filter(named, is_active=True, simulated=False).exclude(email="")
    sent = 0
    for person in accounts.order_by("pk")[:MOST_ACCOUNTS]:
        try:
            path = people.issue_link(person=person, by=None, replace=False)
        except people.LinkError:
            continue
        sent += send(person.email, _("Set a new password"), _mail_text(person, site, path))
    return sent


def _mail_text(person: User, site: str, path: str) -> str:
    hours = settings.PASSWORD_RESET_TIMEOUT // 3600
    return (
        f"Someone asked to set a new password for the account {person.username} at {site}\n\n"
        f"To choose a new password, open this link within {hours} hours. It works once.\n\n"
        f"{site.rstrip('/')}{path}\n\n"
        "If it was not you, ignore this message. Your password has not changed."
    )

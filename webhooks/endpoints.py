"""Add, change and remove the endpoints of a project, for the pages and the API."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.conf import settings
from django.db import transaction

from accounts.models import User, audit
from webhooks.addresses import is_public, problem_with
from webhooks.models import MOST_ENDPOINTS, Endpoint, Event, new_salt


class EndpointError(ValueError):
    """Raised if a change is refused, before anything is written. The message is for the lead."""


class EndpointForm(forms.Form):
    url = forms.CharField(
        label="Address",
        max_length=500,
        help_text="An http or https address that accepts POST requests.",
        widget=forms.URLInput(attrs={"autocomplete": "off"}),
    )
    events = forms.MultipleChoiceField(
        choices=Event.choices,
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one event."},
    )

    def clean_url(self) -> str:
        url: str = self.cleaned_data["url"].strip()
        if problem := problem_with(url):
            raise forms.ValidationError(f"The address {problem}")
        if problem := _private(url):
            raise forms.ValidationError(problem)
        return url


def _private(url: str) -> str:
    """Return why a numeric address is refused, or "". Names are looked up before each request."""
    if settings.WEBHOOK_PRIVATE:
        return ""
    host = urlsplit(url).hostname or ""
    try:
        public = is_public(host)
    except ValueError:
        public = host != "localhost" and not host.endswith(".localhost")
    return "" if public else f"{host} is a private address. An operator can allow these."


@transaction.atomic
def add(*, project: Any, url: str, events: Sequence[str], finished: bool, by: User) -> Endpoint:
    """Add an endpoint. `finished` is whether the project is finished now. Raises EndpointError."""
    type(project).objects.select_for_update(no_key=True).get(pk=project.pk)
    endpoints = Endpoint.objects.filter(project=project)
    if endpoints.filter(url=url).exists():
        raise EndpointError("The project already has a webhook with this address.")
    if endpoints.count() >= MOST_ENDPOINTS:
        raise EndpointError(f"A project can have at most {MOST_ENDPOINTS} webhooks.")
    endpoint = Endpoint.objects.create(
        project=project, url=url, events=sorted(set(events)), finished=finished, created_by=by
    )
    _note(by, "webhook added", endpoint, events=endpoint.events)
    return endpoint


@transaction.atomic
def set_active(*, endpoint: Endpoint, active: bool, by: User) -> bool:
    """Pause or resume an endpoint; return whether that changed anything."""
    changed = Endpoint.objects.filter(pk=endpoint.pk).exclude(active=active).update(active=active)
    if changed:
        endpoint.active = active
        _note(by, "webhook resumed" if active else "webhook paused", endpoint)
    return bool(changed)


@transaction.atomic
def change_secret(*, endpoint: Endpoint, by: User) -> str:
    """Give the endpoint a new secret and return it. The old one is no longer used."""
    endpoint.salt = new_salt()
    endpoint.save(update_fields=["salt"])
    _note(by, "webhook secret changed", endpoint)
    return endpoint.secret


@transaction.atomic
def remove(*, endpoint: Endpoint, by: User) -> None:
    """Remove an endpoint with its log."""
    _note(by, "webhook removed", endpoint)
    endpoint.delete()


def _note(by: User, action: str, endpoint: Endpoint, **details: Any) -> None:
    audit(by, action, endpoint.project, webhook=endpoint.pk, url=endpoint.url, **details)

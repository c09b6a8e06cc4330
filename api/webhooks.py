"""The webhooks of a project and their delivery logs."""

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Path, Router, Schema, Status
from pydantic import Field

from accounts.access import user_of
from accounts.api import ADMIN, Problem
from api.access import project_led
from api.forms import check
from api.pages import After, Limit, Number, Page, Strict, page
from api.projects import Slug
from labeling.projects.finishing import is_finished
from webhooks import endpoints, sending
from webhooks.endpoints import EndpointError, EndpointForm
from webhooks.models import Delivery, Endpoint, Event

router = Router(tags=["webhooks"], auth=ADMIN)


class WebhookItem(Schema):
    id: int
    url: str
    events: list[Event]
    active: bool
    created_at: datetime


class NewWebhookItem(WebhookItem):
    secret: str = Field(description="Key of the signatures. It is shown only once.")


class NewWebhook(Strict):
    url: str = Field(max_length=500)
    events: list[Event] = Field(min_length=1, max_length=20)


class WebhookChange(Strict):
    active: bool


class DeliveryItem(Schema):
    id: int
    event: Event
    subject: str
    state: str
    attempts: int
    status: int | None
    error: str
    created_at: datetime
    sent_at: datetime | None


WebhookNumber = Annotated[Number, Path()]


def item(endpoint: Endpoint) -> dict[str, Any]:
    names = ("url", "events", "active", "created_at")
    return {"id": endpoint.pk, **{name: getattr(endpoint, name) for name in names}}


def delivery_item(delivery: Delivery) -> dict[str, Any]:
    names = (
        "event", "subject", "state", "attempts", "status", "error", "created_at", "sent_at",
    )  # fmt: skip
    return {"id": delivery.pk, **{name: getattr(delivery, name) for name in names}}


def _endpoint(request: HttpRequest, slug: str, number: int) -> Endpoint:
    rows = Endpoint.objects.select_related("project").filter(project=project_led(request, slug))
    return get_object_or_404(rows, pk=number)


@router.get("/projects/{slug}/webhooks", response=Page[WebhookItem], url_name="api-webhooks")
def list_webhooks(request: HttpRequest, slug: Slug, after: After = None, limit: Limit = 100) -> Any:
    """List the webhooks of a project, without their secrets."""
    rows = Endpoint.objects.filter(project=project_led(request, slug))
    return page(rows, item, after=after, limit=limit)


@router.post("/projects/{slug}/webhooks", response={201: NewWebhookItem}, url_name="api-webhooks")
def add_webhook(request: HttpRequest, slug: Slug, body: NewWebhook) -> Any:
    """Add a webhook. The answer contains its secret."""
    project = project_led(request, slug)
    form = EndpointForm({"url": body.url, "events": [event.value for event in body.events]})
    check(form)
    try:
        endpoint = endpoints.add(
            project=project, finished=is_finished(project), by=user_of(request), **form.cleaned_data
        )
    except EndpointError as error:
        raise Problem(409, str(error)) from None
    return Status(201, {**item(endpoint), "secret": endpoint.secret})


@router.patch("/projects/{slug}/webhooks/{number}", response=WebhookItem, url_name="api-webhook")
def change_webhook(
    request: HttpRequest, slug: Slug, number: WebhookNumber, body: WebhookChange
) -> Any:
    """Pause or resume a webhook."""
    endpoint = _endpoint(request, slug, number)
    endpoints.set_active(endpoint=endpoint, active=body.active, by=user_of(request))
    return item(endpoint)


@router.delete("/projects/{slug}/webhooks/{number}", response={204: None}, url_name="api-webhook")
def remove_webhook(request: HttpRequest, slug: Slug, number: WebhookNumber) -> Any:
    """Remove a webhook with its log."""
    endpoints.remove(endpoint=_endpoint(request, slug, number), by=user_of(request))
    return Status(204, None)


@router.get(
    "/projects/{slug}/webhooks/{number}/deliveries",
    response=Page[DeliveryItem],
    url_name="api-deliveries",
)
def list_deliveries(
    request: HttpRequest,
    slug: Slug,
    number: WebhookNumber,
    after: After = None,
    limit: Limit = 100,
) -> Any:
    """List the deliveries of the last 30 days, newest first."""
    rows = Delivery.objects.filter(endpoint=_endpoint(request, slug, number))
    return page(rows, delivery_item, after=after, limit=limit, newest_first=True)


@router.post(
    "/projects/{slug}/webhooks/{number}/deliveries/{delivery}/redeliver",
    response=DeliveryItem,
    url_name="api-redeliver",
)
def redeliver(
    request: HttpRequest, slug: Slug, number: WebhookNumber, delivery: WebhookNumber
) -> Any:
    """Send a delivery again. Its webhook-id stays the same."""
    rows = Delivery.objects.filter(endpoint=_endpoint(request, slug, number))
    row = get_object_or_404(rows, pk=delivery)
    if not sending.send_again(row):
        raise Problem(409, "The delivery is being sent now.")
    row.refresh_from_db()
    return delivery_item(row)

"""The pages on which leads manage a project's webhooks and read their delivery logs."""

from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.access import user_of
from labeling.core.access import led_project
from labeling.models import Project
from labeling.projects.finishing import is_finished
from webhooks import endpoints, sending
from webhooks.endpoints import EndpointError, EndpointForm
from webhooks.models import Delivery, Endpoint, Event

PAGE_SIZE = 50


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def webhooks(request: HttpRequest, slug: str) -> HttpResponse:
    """List the webhooks of the project and, on POST, add one and show its secret once."""
    project = led_project(request, slug)
    form = EndpointForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            endpoint = endpoints.add(
                project=project,
                finished=is_finished(project),
                by=user_of(request),
                **form.cleaned_data,
            )
        except EndpointError as error:
            form.add_error("url", str(error))
        else:
            return _log(request, project, endpoint, secret=endpoint.secret)
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "form": form,
        "endpoints": Endpoint.objects.filter(project=project),
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "labeling/webhooks/list.html", context, status=status)


@login_required
@require_GET
def webhook(request: HttpRequest, slug: str, webhook_id: int) -> HttpResponse:
    """Show the delivery log of a webhook."""
    project = led_project(request, slug)
    return _log(request, project, _endpoint(project, webhook_id))


@login_required
@never_cache
@require_POST
def change(request: HttpRequest, slug: str, webhook_id: int) -> HttpResponse:
    """Pause, resume or remove a webhook, or change its secret. `to` names the action."""
    project, by = led_project(request, slug), user_of(request)
    endpoint, to = _endpoint(project, webhook_id), request.POST.get("to", "")
    if to == "secret":
        secret = endpoints.change_secret(endpoint=endpoint, by=by)
        return _log(request, project, endpoint, secret=secret)
    if to == "remove":
        endpoints.remove(endpoint=endpoint, by=by)
        messages.success(request, "The webhook was removed.")
        return redirect("project-webhooks", slug)
    if to in ("pause", "resume"):
        endpoints.set_active(endpoint=endpoint, active=to == "resume", by=by)
        return redirect("project-webhook", slug, webhook_id)
    sentence = "Choose an action for the webhook: pause, resume, remove or secret."
    return render(request, "400.html", {"sentence": sentence}, status=400)


@login_required
@require_POST
def redeliver(request: HttpRequest, slug: str, webhook_id: int, delivery_id: int) -> HttpResponse:
    """Send a delivery again."""
    project = led_project(request, slug)
    endpoint = _endpoint(project, webhook_id)
    delivery = get_object_or_404(Delivery, pk=delivery_id, endpoint=endpoint)
    if sending.send_again(delivery):
        messages.success(request, "The delivery is sent again within a few seconds.")
    else:
        messages.warning(request, "The delivery is being sent now.")
    return redirect("project-webhook", slug, webhook_id)


def _endpoint(project: Project, pk: int) -> Endpoint:
    return get_object_or_404(Endpoint.objects.select_related("project"), pk=pk, project=project)


def _log(
    request: HttpRequest, project: Project, endpoint: Endpoint, *, secret: str = ""
) -> HttpResponse:
    labels: dict[str, Any] = dict(Event.choices)
    page = Paginator(endpoint.deliveries.order_by("-pk"), PAGE_SIZE)
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "endpoint": endpoint,
        "events": [labels.get(event, event) for event in endpoint.events],
        "page": page.get_page(request.GET.get("page")),
        "secret": secret,
    }
    return render(request, "labeling/webhooks/webhook.html", context)

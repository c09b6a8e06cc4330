"""Prometheus metrics at `/metrics/`, computed from the database at the time of the scrape.

The only metric of the process itself is the duration of API requests. With several web processes on one
machine, prometheus_client adds up their durations through files in a folder.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.db.models import Count, F, Min, Sum
from django.db.models.functions import Coalesce, Now
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from database import clock
from labeling.models import Project, Slot
from labeling.reviewing.progress import of_project
from runs.models import Run, State

if TYPE_CHECKING:
    from prometheus_client import Metric

MAX_PROJECTS = 200
"""Number of projects with metrics of their own, the newest first."""
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
"""Upper bounds of the histogram of durations, in seconds."""
API_PREFIXES = ("/api/", "/v1/")


def is_scraper(request: HttpRequest) -> bool:
    """Return whether a request carries the token of the metrics."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    expected = settings.METRICS_TOKEN
    return (
        bool(expected)
        and scheme.lower() == "bearer"
        and secrets.compare_digest(token.strip().encode(), expected.encode())
    )


@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    """Return all metrics in Prometheus's text format, or 404 without the token.

    Costs two queries for each project, and four more.
    """
    if not is_scraper(request):
        raise Http404
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    registry.register(DatabaseCollector())
    MultiProcessCollector(registry, str(_durations_folder()))
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class DatabaseCollector:
    """Computes the metrics of the installation from the database."""

    def collect(self) -> Iterator["Metric"]:
        yield from _queue()
        yield from _runs()


def _queue() -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily

    tasks = GaugeMetricFamily("tiebreak_tasks", "Tasks of a project.", labels=["project"])
    slots = GaugeMetricFamily(
        "tiebreak_slots", "Wanted rankings of a project by state.", labels=["project", "state"]
    )
    for project in Project.objects.filter(archived_at=None).order_by("-pk")[:MAX_PROJECTS]:
        progress = of_project(project)
        tasks.add_metric([project.slug], progress.tasks)
        slots.add_metric([project.slug, "filled"], progress.filled)
        slots.add_metric([project.slug, "leased"], progress.leased)
        free = progress.slots - progress.filled - progress.leased
        slots.add_metric([project.slug, "free"], free)
    yield tasks
    yield slots
    yield GaugeMetricFamily(
        "tiebreak_expired_leases",
        "Reservations of slots that have expired and are not released yet.",
        value=Slot.objects.filter(leased_until__lt=clock.now()).count(),
    )


def _runs() -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    runs = GaugeMetricFamily("tiebreak_runs", "Runs by kind and state.", labels=["kind", "state"])
    for kind, state, count in (
        Run.objects.order_by().values_list("kind", "state").annotate(count=Count("pk"))
    ):
        runs.add_metric([kind, state], count)
    yield runs
    oldest = GaugeMetricFamily(
        "tiebreak_oldest_run_seconds",
        "Age of the oldest queued run, and duration of the oldest running one.",
        labels=["state"],
    )
    for state, since in ((State.QUEUED, "created_at"), (State.RUNNING, "started_at")):
        age = Run.objects.filter(state=state).aggregate(age=Now() - Min(since))["age"]
        oldest.add_metric([state], age.total_seconds() if age else 0.0)
    yield oldest
    seconds = CounterMetricFamily(
        "tiebreak_run_seconds",
        "Time for which runs have been executed, by kind. Divide by 3600 for hours of a GPU.",
        labels=["kind"],
    )
    durations = (
        Run.objects.exclude(started_at=None)
        .order_by()
        .values_list("kind")
        .annotate(total=Sum(Coalesce(F("finished_at"), Now()) - F("started_at")))
    )
    for kind, total in durations:
        seconds.add_metric([kind], total.total_seconds())
    yield seconds


# --- durations of API requests --------------------------------------------------------------------


def _durations_folder() -> Path:
    """Return the folder of this machine's durations. Web processes of other machines have their own."""
    return Path(settings.VAR_DIR) / "metrics" / socket.gethostname()


class ApiDurations:
    """Middleware that measures the duration of API requests, if there is a token for the metrics."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response
        if not settings.METRICS_TOKEN:
            raise MiddlewareNotUsed
        folder = _durations_folder()
        folder.mkdir(parents=True, exist_ok=True)
        # prometheus_client reads the variable when it is imported, which must not happen earlier.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        from prometheus_client import Histogram

        self.seconds = Histogram(
            "tiebreak_api_seconds",
            "Duration of API requests until the answer begins.",
            ["method", "route", "status"],
            buckets=BUCKETS,
            registry=None,
        )

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith(API_PREFIXES):
            return self.get_response(request)
        start = time.perf_counter()
        response = self.get_response(request)
        match = request.resolver_match
        # The route instead of the path: a path may contain anything, and each value is kept.
        labels = [request.method or "", match.route if match else "", str(response.status_code)]
        if labels[0] in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}:
            self.seconds.labels(*labels).observe(time.perf_counter() - start)
        return response

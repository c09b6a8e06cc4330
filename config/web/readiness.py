"""The readiness check at `/ready/`: whether this web process can serve people.

`/health/` only says that the process is alive and reaches the database.
"""

import logging
from collections.abc import Callable, Iterator

import kombu.exceptions
import redis.exceptions
from celery import current_app
from django.db import DatabaseError
from django.http import HttpRequest, JsonResponse

from config import doctor
from config.web.metrics import is_scraper

log = logging.getLogger("tiebreak.readiness")

BROKER_SECONDS = 1
WORKER_SECONDS = 1.5
"""Time for workers to reply. They reply while they execute runs, too."""


def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 if everything that a page needs works, otherwise 503, with a result for each check.

    The database, its migrations and the folders are checked. `?all` also checks Redis and the workers,
    which takes up to three seconds and needs the token of `/metrics/`.
    """
    checks = CHECKS
    if "all" in request.GET:
        if not is_scraper(request):
            return JsonResponse({"detail": "`?all` needs the token of the metrics."}, status=403)
        checks = CHECKS | MORE_CHECKS
    results = {name: _result(name, check) for name, check in checks.items()}
    is_ready = all(result == "ok" for result in results.values())
    return JsonResponse(results, status=200 if is_ready else 503)


def _result(name: str, check: Callable[[], Iterator[str]]) -> str:
    """Return "ok" or "failed". Problems are logged, because their text may contain paths."""
    try:
        problems = list(check())
    except (DatabaseError, OSError, kombu.exceptions.KombuError, redis.exceptions.RedisError) as e:
        problems = [str(e).strip() or type(e).__name__]
    for problem in problems:
        log.warning("Not ready: %s: %s", name, problem)
    return "failed" if problems else "ok"


def _migrations() -> Iterator[str]:
    if unapplied := doctor.unapplied_migrations():
        yield f"{unapplied} migrations are not applied. Run manage.py migrate."


def _folders() -> Iterator[str]:
    return (problem.sentence for problem in doctor.folders() if problem.serious)


def _redis() -> Iterator[str]:
    with current_app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
    yield from ()


def _workers() -> Iterator[str]:
    """Yield a problem for each queue from which no worker that replies takes messages."""
    replies = current_app.control.inspect(timeout=WORKER_SECONDS).active_queues() or {}
    served = {queue["name"] for queues in replies.values() for queue in queues}
    for name in sorted({"default", "gpu"} - served):
        yield f"No worker of the queue {name!r} replied."


CHECKS: dict[str, Callable[[], Iterator[str]]] = {"database": _migrations, "folders": _folders}
MORE_CHECKS: dict[str, Callable[[], Iterator[str]]] = {"redis": _redis, "workers": _workers}

"""Responses to problems with the server's storage, instead of an error 500."""

import logging
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from buckets.bucket import StorageError
from recipes.machine.faults import is_no_space, storage_problem

logger = logging.getLogger("tiebreak.storage")

NO_SPACE = 507  # Insufficient Storage
UNAVAILABLE = 503


class StorageFaults:
    """Middleware that explains a full disk or an unwritable folder on a page."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        fault = storage_fault(request, exception)
        if fault is None:
            return None
        status, sentence = fault
        leads = request.user.is_authenticated and request.user.can_lead
        context = {"problem": sentence if leads else "", "status": status}
        return render(request, "storage_fault.html", context, status=status)


def storage_fault(request: HttpRequest, error: Exception) -> tuple[int, str] | None:
    """Log a storage problem and return its HTTP status and a sentence, or None for another error.

    The sentence names a folder on the server, so only leads should see it.
    """
    if isinstance(error, StorageError):
        logger.error("%s %s: %s", request.method, request.path, error)
        return UNAVAILABLE, str(error)
    sentence = storage_problem(error, settings.VAR_DIR)
    if sentence is None or not isinstance(error, OSError):
        return None
    logger.error("%s %s: %s", request.method, request.path, sentence)
    return NO_SPACE if is_no_space(error) else UNAVAILABLE, sentence

"""An id for each request, in the response's `X-Request-ID` header and in the lines it logs."""

import re
import uuid
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from formatting.log_lines import log_ids

HEADER = "X-Request-ID"
VALID_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class RequestIds:
    """Middleware that takes the id from the proxy, or makes a new one.

    Without a proxy, any client could choose the id, so the header is ignored.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        sent = request.headers.get(HEADER, "") if settings.PROXIES else ""
        request_id = sent if VALID_ID.fullmatch(sent) else uuid.uuid4().hex
        with log_ids(request=request_id):
            response = self.get_response(request)
        response[HEADER] = request_id
        return response

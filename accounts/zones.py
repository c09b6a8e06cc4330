"""The reader's time zone: their browser names it in a cookie, and pages and counts follow it."""

from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

COOKIE = "timezone"
_of_browser: ContextVar[bool] = ContextVar("zone_of_browser", default=False)

KNOWN = frozenset(available_timezones()) - {"localtime", "Factory"}
"""A cookie can hold anything: no name outside this list reaches the file system."""


@lru_cache(maxsize=512)
def _zone(name: str) -> ZoneInfo | None:
    return ZoneInfo(name) if name in KNOWN else None


def is_of_browser() -> bool:
    """Whether times are shown in the browser's zone; else they name the server's."""
    return _of_browser.get()


class BrowserZone:
    """Middleware that makes the browser's zone the current one; without it, TIEBREAK_TIME_ZONE."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        zone = _zone(request.COOKIES.get(COOKIE, "")[:64])
        token = _of_browser.set(zone is not None)
        try:
            with timezone.override(zone or timezone.get_default_timezone()):
                return self.get_response(request)
        finally:
            _of_browser.reset(token)

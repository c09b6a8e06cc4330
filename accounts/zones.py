"""The user's time zone, which the browser sends in a cookie."""

from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

COOKIE = "timezone"
_of_browser: ContextVar[bool] = ContextVar("zone_of_browser", default=False)

NAMES = frozenset(available_timezones()) - {"localtime", "Factory"}
"""The accepted names. They are checked because ZoneInfo opens a file with the name in the cookie."""


@lru_cache(maxsize=512)
def _zone(name: str) -> ZoneInfo | None:
    return ZoneInfo(name) if name in NAMES else None


def is_of_browser() -> bool:
    """Return whether times are shown in the browser's time zone instead of the server's."""
    return _of_browser.get()


class BrowserZone:
    """Middleware that activates the browser's time zone, or TIEBREAK_TIME_ZONE if it is unknown."""

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

"""Limits on requests, and rules for caching responses.

The size limit for a body depends on the path, and is checked before the body is read: first by the web
server, and then by middleware, which works with any server and knows who is signed in.
"""

import re
from collections.abc import Callable

from django.conf import settings
from django.core import signing
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponseNotAllowed, parse_cookie
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.cache import patch_cache_control
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.views import defaults

from accounts.api import Problem
from accounts.parameters import number
from labeling.pages.imports import MAX_UPLOAD_BYTES

SMALL = 3 << 20
"""Maximum size of forms and API requests in bytes. The API has a lower limit, with a better message."""
UPLOAD = MAX_UPLOAD_BYTES + (1 << 20)
UPLOAD_PATH = re.compile(r"/p/[-\w]+/data/import/")
UPLOAD_COOKIE = "tiebreak_upload"
"""A signed cookie that the import page sets. With it, the web server, which has no database, can refuse
uploads by anonymous visitors before reading them."""
_SALT = "config.web.limits.upload"


def largest_body(path: str, *, may_upload: bool) -> int:
    """Return the maximum size of a body at this path, in bytes."""
    return UPLOAD if may_upload and UPLOAD_PATH.fullmatch(path) else SMALL


def was_signed_in(cookies: str) -> bool:
    """Return whether a Cookie header proves that a signed-in user has opened an import page."""
    value = parse_cookie(cookies).get(UPLOAD_COOKIE, "")
    try:
        signing.TimestampSigner(salt=_SALT).unsign(value, max_age=settings.SESSION_COOKIE_AGE)
    except signing.BadSignature:
        return False
    return True


def limit_bodies(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Make middleware that refuses too large a body with a 413 before anything parses it."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        length = content_length(request.META.get("CONTENT_LENGTH", ""))
        if length > SMALL and length > largest_body(
            request.path_info, may_upload=request.user.is_authenticated
        ):
            return _too_large_response(request)
        response = get_response(request)
        match = request.resolver_match
        if match and match.url_name == "project-import" and response.status_code == 200:
            _allow_upload(request, response)
        return response

    return middleware


def content_length(text: str) -> int:
    """Return the length in a Content-Length header, or a huge number if the header is invalid."""
    length = number(text or "0")
    return 2**62 if length is None else length


def _allow_upload(request: HttpRequest, response: HttpResponseBase) -> None:
    value = signing.TimestampSigner(salt=_SALT).sign(str(request.user.pk))
    response.set_cookie(
        UPLOAD_COOKIE,
        value,
        max_age=settings.SESSION_COOKIE_AGE,
        path=request.path,
        secure=settings.HTTPS,
        httponly=True,
        samesite="Lax",
    )


def too_large(path: str, limit: int = SMALL) -> str:
    """Return the reason for a refusal in the current language. `limit` is the limit for forms in bytes."""
    if UPLOAD_PATH.fullmatch(path):
        return _(
            "The file is larger than %(size)d MB, or the import page was not opened first. Open "
            "the page again, or import the file with manage.py import_data."
        ) % {"size": MAX_UPLOAD_BYTES >> 20}
    size = number_format(f"{limit / (1 << 20):g}")
    return _("The request is larger than %(size)s MB. Send less at a time.") % {"size": size}


def too_large_page(path: str, *, cookies: str, languages: str) -> str:
    """Return the page for a refusal by the web server, in the language that these headers request."""
    request = HttpRequest()
    request.COOKIES = parse_cookie(cookies)
    request.META["HTTP_ACCEPT_LANGUAGE"] = languages
    with translation.override(translation.get_language_from_request(request)):
        return render_to_string("413.html", {"sentence": too_large(path)})


def _too_large_response(request: HttpRequest, limit: int = SMALL) -> HttpResponseBase:
    sentence = too_large(request.path_info, limit)
    if request.path_info.startswith("/api/"):
        return Problem(413, sentence).response()
    return render(request, "413.html", {"sentence": sentence}, status=413)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Answer requests that Django itself refuses, such as a form above Django's size limit."""
    if isinstance(exception, RequestDataTooBig):
        return _too_large_response(request, settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    return defaults.bad_request(request, exception)


def refuse_null_characters(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Make middleware that refuses URLs with a null character, which PostgreSQL cannot store."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        query = (text for name, values in request.GET.lists() for text in (name, *values))
        if "\0" in request.path_info or any("\0" in text for text in query):
            sentence = _("The address contains a null character. Remove it.")
            if request.path_info.startswith("/api/"):
                return Problem(400, sentence).response()
            return render(request, "400.html", {"sentence": sentence}, status=400)
        return get_response(request)

    return middleware


def explain_wrong_method(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Make middleware that shows browsers a page for a wrong method. Django's own response is empty."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        is_bare = isinstance(response, HttpResponseNotAllowed) and not response.content
        if not (is_bare and request.accepts("text/html")):
            return response
        page = render(request, "405.html", status=405)
        page["Allow"] = response["Allow"]
        return page

    return middleware


def keep_private(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Make middleware that forbids caching of all responses without a Cache-Control header."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if not response.has_header("Cache-Control"):
            patch_cache_control(response, no_store=True, private=True)
        return response

    return middleware

"""Static files with the version of their contents in the address, so that browsers keep them for years.

Their addresses are /static/VERSION/PATH. The version changes when any file changes, so files that
refer to each other always fit together, and no build step has to rewrite them. Addresses with another
version, such as those of pages that were loaded before an upgrade, lead to the current ones.
"""

import hashlib
import re
from importlib.metadata import version
from pathlib import Path

from django.contrib.staticfiles import finders
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import get_script_prefix

PACKAGES = ("Django", "django-htmx")
"""Packages with static files of their own."""
VERSION = re.compile(r"[0-9a-f]{12}/")


def version_of(folder: Path) -> str:
    """Return 12 hexadecimal digits that depend on the files and on the versions of the packages.

    Reads every file, about 1 MB.
    """
    digest = hashlib.sha256(" ".join(version(name) for name in PACKAGES).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        digest.update(f"\n{path.relative_to(folder).as_posix()} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:12]


def is_immutable(path: str, url: str) -> bool:
    """Return whether the contents at this URL never change."""
    from django.conf import settings

    return bool(settings.STATIC_VERSION)


def current(request: HttpRequest, path: str) -> HttpResponse:
    """Redirect from an address without a version, or with an earlier one, to the file on this server."""
    from django.conf import settings

    name = VERSION.sub("", path, count=1) if VERSION.match(path) else path
    if not settings.STATIC_VERSION or not finders.find(name):
        raise Http404("There is no such static file.")
    response = HttpResponseRedirect(f"{get_script_prefix()}static/{settings.STATIC_VERSION}{name}")
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Cache-Control"] = "no-cache"
    return response

"""The translations for scripts, served as one script that browsers can cache."""

import hashlib
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import translation
from django.utils.cache import patch_cache_control
from django.views.i18n import JavaScriptCatalog

A_YEAR = 365 * 24 * 3600


def _fingerprint() -> str:
    """Return a hash of the translations. As part of the URL, it makes browsers load a changed script."""
    digest = hashlib.sha256()
    for path in sorted(Path(settings.LOCALE_PATHS[0]).rglob("djangojs.mo")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


FINGERPRINT = _fingerprint()


class Catalog(JavaScriptCatalog):
    """The view that serves `gettext` for scripts. Its URL contains the language and the hash."""

    packages = ["config"]  # only translations in LOCALE_PATHS, not those of the admin

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        requested = request.GET.get("language", "")
        language = (
            requested if requested in dict(settings.LANGUAGES) else translation.get_language()
        )
        with translation.override(language):
            response = super().get(request, *args, **kwargs)
        if request.GET.get("words") == FINGERPRINT and language == requested:
            patch_cache_control(response, public=True, max_age=A_YEAR, immutable=True)
        else:
            patch_cache_control(response, no_cache=True)
        return response


def catalog_url() -> str:
    return f"{reverse('words')}?language={translation.get_language()}&words={FINGERPRINT}"

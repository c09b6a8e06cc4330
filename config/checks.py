"""System checks that find mistakes in a deployment. `manage.py check` runs them."""

import difflib
import os
from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from config.env import VARIABLES

DEPLOYMENT = "deployment"
"""The tag of checks that also run before commands which serve no pages."""
LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


@register(Tags.security)
def public_without_https(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    public = sorted(set(settings.ALLOWED_HOSTS) - LOOPBACK)
    if settings.HTTPS or not public:
        return []
    return [
        Warning(
            f"{', '.join(public)} is served without HTTPS: passwords and sessions can be read in transit.",
            hint="Put a TLS proxy in front and set TIEBREAK_HTTPS=1.",
            id="tiebreak.W001",
        )
    ]


@register(Tags.security)
def public_with_debug(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    if not settings.DEBUG or set(settings.ALLOWED_HOSTS) <= LOOPBACK:
        return []
    return [
        Error(
            "Debug pages, which show settings and data, would be served to the public.",
            hint="Unset TIEBREAK_DEBUG, or serve loopback only with TIEBREAK_ALLOWED_HOSTS.",
            id="tiebreak.E001",
        )
    ]


INTERNAL_VARIABLES = {
    "TIEBREAK_LOCAL_SERVICES",
    "TIEBREAK_PIN_ACCESS",
    "TIEBREAK_PIN_QUERIES",
    "TIEBREAK_TEST_BROWSER",
}
"""Variables that Tiebreak's own processes and tests set."""


@register(DEPLOYMENT)
def variables_known(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    names = VARIABLES.keys() | INTERNAL_VARIABLES
    warnings: list[CheckMessage] = []
    for name in sorted(name for name in os.environ if name.startswith("TIEBREAK_")):
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.8)
            warnings.append(
                Warning(
                    f"{name} is set, but nothing reads it.",
                    hint=f"Did you mean {near[0]}?" if near else "docs/settings.md lists them.",
                    id="tiebreak.W002",
                )
            )
    return warnings


@register(DEPLOYMENT)
def folders_writable(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    errors: list[CheckMessage] = []
    for variable, name in (
        ("TIEBREAK_VAR", "VAR_DIR"),
        ("TIEBREAK_RUNS_DIR", "RUNS_DIR"),
        ("TIEBREAK_SNAPSHOTS_DIR", "SNAPSHOTS_DIR"),
        ("TIEBREAK_UPLOADS_DIR", "UPLOADS_DIR"),
    ):
        folder = getattr(settings, name)
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(existing, os.W_OK):
            errors.append(
                Error(
                    f"{folder} cannot be written to: {existing} belongs to someone else.",
                    hint=f"Change its owner, or point {variable} elsewhere.",
                    id="tiebreak.E002",
                )
            )
    return errors

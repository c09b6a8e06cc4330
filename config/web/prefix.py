"""The path under which Tiebreak is served (TIEBREAK_PATH_PREFIX), such as /tiebreak.

A proxy may pass the prefix on or remove it: both forms of a path are served.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from django.conf import settings


def without_prefix(path: str) -> str:
    """Return the path below the prefix. A path outside of the prefix is returned as it is."""
    prefix = settings.PATH_PREFIX
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path[len(prefix) :] or "/"
    return path


def under_prefix_wsgi(
    application: Callable[..., Iterable[bytes]],
) -> Callable[..., Iterable[bytes]]:
    """Wrap a WSGI application, whose PATH_INFO must not have the prefix."""

    def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = without_prefix(environ.get("PATH_INFO", ""))
        return application({**environ, "PATH_INFO": path}, start_response)

    return wrapped


def under_prefix_asgi(
    application: Callable[..., Awaitable[None]],
) -> Callable[..., Awaitable[None]]:
    """Wrap an ASGI application. Django's paths must have the prefix, and those of Channels must not."""

    async def wrapped(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if "path" in scope:
            prefix = settings.PATH_PREFIX if scope["type"] == "http" else ""
            scope = {**scope, "path": prefix + without_prefix(scope["path"]), "root_path": ""}
        await application(scope, receive, send)

    return wrapped

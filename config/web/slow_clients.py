"""HTTP connections that need no thread while they wait for a slow client; see config.web.server."""

import copy
import re
import resource
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from django.conf import settings
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer, UnixWSGIServer
from waitress.task import ThreadedTaskDispatcher
from waitress.utilities import RequestEntityTooLarge

from config.web import limits
from config.web.prefix import without_prefix

BODY_BYTES_PER_SECOND = 50_000
"""A body may take settings.BODY_SECONDS, and one more second for each of this many bytes."""
IDLE_SECONDS = 65
READ_BYTES_PER_SECOND = 2_000
"""A client that reads a response more slowly than this for settings.READ_SECONDS is disconnected."""
CONNECTIONS = 1000
BUFFERED_RESPONSE = 256 << 20
"""Bytes of a response that are buffered on disk before its thread must wait for the client."""
LINGER_SECONDS = 2
"""How long the server keeps receiving a refused body, so that the client gets to read the reason."""

PAGE_HEADERS = [
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'",
    ),
    ("X-Content-Type-Options", "nosniff"),
]
"""Headers of the pages that this server sends itself. On all other pages, middleware sets them."""

HASHES_PASSWORD = re.compile(
    r"/login/|/admin/login/|/password/|/link/.*|/people/.*|/admin/accounts/user/.*"
)
PAUSE = 4
"""Length of the pause after a failed attempt, as a multiple of the attempt's duration."""
MAX_PAUSE = 1.0


class TooLarge(RequestEntityTooLarge):
    """A 413 response: problem+json for the API, a page for browsers, or plain text."""

    def __init__(self, path: str, headers: dict[str, str]):
        super().__init__(limits.too_large(path))
        self.path = path
        self.headers = headers

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        if self.path.startswith("/api/"):
            kind, body = self._problem()
        elif "text/html" in self.headers.get("ACCEPT", ""):
            kind, body = "text/html; charset=utf-8", self._page()
        else:
            return super().to_response(ident)
        headers = [("Content-Type", kind), ("Connection", "close"), *PAGE_HEADERS]
        return f"{self.code} {self.reason}", headers, body

    def _problem(self) -> tuple[str, bytes]:
        from accounts.api import Problem

        reply = Problem(self.code, self.body).response()
        return reply["Content-Type"], reply.content

    def _page(self) -> bytes:
        return limits.too_large_page(
            self.path,
            cookies=self.headers.get("COOKIE", ""),
            languages=self.headers.get("ACCEPT_LANGUAGE", ""),
        ).encode()


class Request(HTTPRequestParser):
    """A request that is being received, with a time limit, and a size limit for its body."""

    adj: Any
    path: str
    error: Any = None

    def __init__(self, adj: Adjustments):
        super().__init__(adj)
        self.began = time.monotonic()

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError:  # the Content-Length has more digits than int() accepts
            raise ParsingError("The length of the body is not a number") from None
        self.path = without_prefix(self.path)
        if self.content_length or self.chunked:
            upload = limits.UPLOAD_PATH.fullmatch(self.path) is not None
            may_upload = upload and limits.was_signed_in(self.headers.get("COOKIE", ""))
            self.adj = copy.copy(self.adj)
            # waitress refuses bodies that have at least this length
            self.adj.max_request_body_size = 1 + limits.largest_body(
                self.path, may_upload=may_upload
            )

    def received(self, data: bytes) -> int:
        consumed = super().received(data)
        if type(self.error) is RequestEntityTooLarge:
            self.error = TooLarge(self.path, self.headers)
        return consumed

    def seconds(self) -> float:
        """Return the time limit for receiving the request so far. It grows with the size of the body."""
        if not self.headers_finished:
            return settings.HEADER_SECONDS
        length = self.body_bytes_received if self.chunked else self.content_length
        return settings.HEADER_SECONDS + settings.BODY_SECONDS + length / BODY_BYTES_PER_SECOND


class Connection(HTTPChannel):
    """A connection that is closed if its client sends or reads too slowly."""

    parser_class = Request
    sent = 0
    unread_since: float | None = None
    sent_before = 0
    refused = False
    lingers_until: float | None = None

    def received(self, data: bytes) -> bool:
        proceed = super().received(data)
        if self.requests and isinstance(self.requests[-1].error, TooLarge):
            self.refused = True
        return proceed

    def send(self, data: bytes, do_close: bool = True) -> int:
        count = super().send(data, do_close=do_close)
        self.sent += count
        return count

    def check(self, now: float) -> None:
        """Close the connection if it is too slow, or if its time to linger is over.

        This is called every second.
        """
        if self.lingers_until is not None:
            self.will_close = now > self.lingers_until
        elif self._is_read_too_slowly(now):
            # Setting will_close would wait until the socket accepts more data, which never happens.
            super().handle_close()
        elif self._is_sent_too_slowly(now):
            self.will_close = True

    def _is_sent_too_slowly(self, now: float) -> bool:
        request = self.request
        return request is not None and now - request.began > request.seconds()

    def _is_read_too_slowly(self, now: float) -> bool:
        if not self.total_outbufs_len:
            self.unread_since = None
        elif self.unread_since is None:
            self.unread_since, self.sent_before = now, self.sent
        elif now - self.unread_since > settings.READ_SECONDS:
            rate = (self.sent - self.sent_before) / (now - self.unread_since)
            self.unread_since, self.sent_before = now, self.sent
            return rate < READ_BYTES_PER_SECOND
        return False

    # Closing a socket that has unread data resets the connection, so the client might never see the
    # reason. After a refusal, only the sending half is therefore closed at first.

    def handle_close(self) -> None:
        if self.refused and self.connected and self.lingers_until is None:
            self.lingers_until = time.monotonic() + LINGER_SECONDS
            self.will_close = self.close_when_flushed = False
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
            return
        super().handle_close()

    def readable(self) -> bool:
        return self.lingers_until is not None or super().readable()

    def handle_read(self) -> None:
        if self.lingers_until is None:
            super().handle_read()
        else:
            self.recv(1 << 16)  # closes the connection at the end of the body


class PasswordLane(ThreadedTaskDispatcher):
    """A dispatcher with a single thread, for all requests that may hash a password."""

    def __init__(self) -> None:
        super().__init__()
        self.set_thread_count(1)

    def add_task(self, task: Any) -> None:
        super().add_task(PacedTask(task))


class PacedTask:
    """A task that is followed by a pause, unless its response is a redirect, which means success."""

    def __init__(self, connection: Connection):
        self.connection = connection

    def service(self) -> None:
        began = time.monotonic()
        self.connection.service()
        if not _response.status.startswith("3"):
            time.sleep(min(PAUSE * (time.monotonic() - began), MAX_PAUSE))

    def cancel(self) -> None:
        self.connection.cancel()


class _Response(threading.local):
    status = ""


_response = _Response()


def record_status(application: Any) -> Any:
    """Wrap a WSGI application so that it records the status of each thread's last response."""

    def recording(environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            _response.status = status
            return start_response(status, headers, exc_info)

        return application(environ, start)

    return recording


class ListenerMixin:
    """A mixin for servers that gives password hashing its own thread and closes slow connections."""

    channel_class = Connection
    lane: PasswordLane

    def add_task(self, task: Any) -> None:
        request = task.requests[0]
        is_form = request.error is None and request.command == "POST"
        if is_form and HASHES_PASSWORD.fullmatch(request.path):
            self.lane.add_task(task)
        else:
            super().add_task(task)  # type: ignore[misc]

    def maintenance(self, now: float) -> None:
        super().maintenance(now)  # type: ignore[misc]
        for connection in list(self.active_channels.values()):  # type: ignore[attr-defined]
            connection.check(time.monotonic())


class TcpServer(ListenerMixin, TcpWSGIServer):
    pass


class UnixServer(ListenerMixin, UnixWSGIServer):
    pass


def adjustments(threads: int) -> Adjustments:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Adjustments(
        threads=threads,
        ident=None,
        listen="127.0.0.1:0",
        recv_bytes=1 << 16,
        connection_limit=min(CONNECTIONS, max(50, files - 200)),
        max_request_header_size=1 << 16,
        max_request_body_size=limits.SMALL,
        outbuf_high_watermark=BUFFERED_RESPONSE,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=1,
        log_socket_errors=False,
        asyncore_use_poll=True,
        # The application decides which proxies to trust (TIEBREAK_PROXIES, TIEBREAK_HTTPS).
        clear_untrusted_proxy_headers=False,
    )

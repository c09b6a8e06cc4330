"""The web server. gunicorn manages its processes, and waitress handles HTTP in each of them.

    gunicorn config.wsgi:application --worker-class config.web.server.BufferingWorker --threads 4

An event loop receives each request completely before a thread handles it, and sends the response
afterwards. A slow client therefore occupies a connection but no thread. (gunicorn's own threads read
from sockets, so four half-sent requests would block four threads.) This module adds to waitress:

- a time limit for the header of a request, and a minimum rate for its body;
- a size limit for the body, which depends on the path (config.web.limits);
- a minimum rate at which a client must read a response;
- one separate thread for all requests that hash a password, with a pause after each failure, so that
  password guessing does not slow down other requests.
"""

import logging
import os
import socket
import time
from typing import Any

from gunicorn.workers.base import Worker
from waitress import wasyncore
from waitress.task import ThreadedTaskDispatcher


class BufferingWorker(Worker):
    """A gunicorn worker that handles HTTP with waitress."""

    def run(self) -> None:
        from config.web import slow_clients  # gunicorn imports this module before Django is set up

        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self.map: dict[int, Any] = {}
        self.http = slow_clients
        self.adj = slow_clients.adjustments(self.cfg.threads)
        self.dispatcher, self.lane = ThreadedTaskDispatcher(), slow_clients.PasswordLane()
        self.dispatcher.set_thread_count(self.cfg.threads)
        self.servers = [self._server(listener.sock) for listener in self.sockets]
        while self.alive and self.ppid == os.getppid():
            self.notify()
            self._turn(1)
        self._stop()

    def _server(self, sock: socket.socket) -> Any:
        unix = sock.family == socket.AF_UNIX
        kind = self.http.UnixServer if unix else self.http.TcpServer
        server = kind(
            self.http.record_status(self.wsgi),
            self.map,
            True,
            sock,
            dispatcher=self.dispatcher,
            adj=self.adj,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
            bind_socket=False,
        )
        server.lane = self.lane
        return server

    def _turn(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self.map, count=1)

    def _stop(self) -> None:
        """Stop accepting connections, and finish current requests within gunicorn's graceful timeout."""
        for server in self.servers:
            server.accepting = False
            self.map.pop(server._fileno, None)
            server.socket.close()
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while self._is_busy() and time.monotonic() < deadline:
            self.notify()
            self._turn(0.1)
        for dispatcher in (self.lane, self.dispatcher):
            dispatcher.shutdown(timeout=0.1)

    def _is_busy(self) -> bool:
        connections = (c for server in self.servers for c in server.active_channels.values())
        return any(c.requests or c.total_outbufs_len for c in connections)

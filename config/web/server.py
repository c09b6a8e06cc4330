"""The web server: gunicorn manages the processes, waitress handles HTTP inside them.

    gunicorn config.wsgi:application --worker-class config.web.server.BufferingWorker --threads 4

An event loop receives a whole request before it gives it to a thread, and sends the response
afterwards. A slow client therefore holds a connection but never a thread. (The threads of gunicorn
read from sockets themselves, so four half-sent requests would block all four.)
This module adds to waitress:

- a time limit for the header of a request, and a minimum rate for its body;
- a size limit for the body that depends on the path (config.web.limits);
- a minimum rate at which a response must be read;
- one separate thread for requests that hash a password, with pauses after failures, so that
  guessing passwords does not slow down other requests.
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
    """A gunicorn worker that runs waitress."""

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
        """Stop accepting connections, and finish requests within gunicorn's graceful timeout."""
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

"""The web server: gunicorn starts, watches and replaces the processes, waitress speaks HTTP in them.

    gunicorn config.wsgi:application --worker-class config.web.server.BufferingWorker --threads 4

An event loop receives whole requests before a thread works on them, and sends responses after the
thread is done with them. Clients that send or read slowly therefore hold a connection, never a
thread; gunicorn's own threads read from the socket, and four half-sent requests stop all of them.
On top of what waitress does:

- a request has a total time for its header, and a minimum rate for its body;
- its body is limited by its address before it is read (config.web.limits);
- a response that is read too slowly is given up;
- what hashes a password runs in one thread of its own, with pauses after failures, so that people
  who guess passwords do not slow those who work.
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
    """A gunicorn worker whose HTTP is waitress's."""

    def run(self) -> None:
        from config.web import slow_clients  # gunicorn reads this module before Django is set up

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
            self.http.noting_status(self.wsgi),
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
        """Accept nothing more, and finish what was begun within gunicorn's graceful timeout."""
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

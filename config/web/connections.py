"""Database connections that notice if the server has stopped answering.

The settings import this module, so it must not use them when it is imported.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

SILENT_SECONDS = 1.0
PROBE_SECONDS = 0.5
AWAY_STATES = ("08", "57P", "53300")
"""SQLSTATEs of a server that cannot be reached, shuts down, starts up, or takes no more connections."""
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""The message that asks for TLS. The server answers it with one byte, before authentication."""

_thread = threading.local()


@contextmanager
def limited_waiting() -> Iterator[None]:
    """Limit how long this thread waits for a silent database, inside the `with` block."""
    _thread.limited = True
    try:
        yield
    finally:
        _thread.limited = False


class OutageConnection(psycopg.Connection[Any]):
    """A connection that, in a web request, gives up if the server has stopped answering.

    A statement has no time limit. While it runs, the watchdog probes the server every second.
    """

    given_up = False

    def wait(self, *args: Any, **options: Any) -> Any:
        is_watched = getattr(_thread, "limited", False)
        if is_watched:
            watchdog.begin(self)
        try:
            return super().wait(*args, **options)
        except psycopg.Error as error:
            if is_outage(error):
                replace_spare_connections()
            if self.given_up:
                raise psycopg.OperationalError("the server has stopped answering") from error
            raise
        finally:
            if is_watched:
                watchdog.end(self)


class Watchdog:
    """A thread that disconnects waiting connections when the server has stopped answering.

    The alternative is to wrap psycopg's generator in the request's own thread. It needs no second
    thread, but psycopg would then run Python code at each step of a statement: 22.2 instead of 19.7
    million instructions for a submitted ranking (cachegrind).
    """

    def __init__(self) -> None:
        self._began: dict[OutageConnection, float] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread()

    def begin(self, connection: OutageConnection) -> None:
        """Record that this connection is waiting from now on."""
        if not self._thread.is_alive():
            self._start()
        self._began[connection] = time.monotonic()

    def end(self, connection: OutageConnection) -> None:
        with self._lock:
            self._began.pop(connection, None)

    def _start(self) -> None:
        """Start the thread. Each process needs its own, because threads do not survive a fork."""
        with self._lock:
            if not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(SILENT_SECONDS / 4)
            overdue = self._overdue()
            if overdue and database_answers():
                time.sleep(SILENT_SECONDS)
            else:
                for connection, began in overdue:
                    self._disconnect(connection, began)

    def _overdue(self) -> list[tuple[OutageConnection, float]]:
        latest = time.monotonic() - SILENT_SECONDS
        return [wait for wait in self._began.copy().items() if wait[1] < latest]

    def _disconnect(self, connection: OutageConnection, began: float) -> None:
        """Shut down the socket, so that the waiting thread gets an error, if it still waits.

        The lock makes `end` wait until the socket is shut down. After `end`, the file descriptor could
        belong to another socket.
        """
        with self._lock:
            if self._began.get(connection) == began:
                connection.given_up = True
                with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as copy:
                    copy.shutdown(socket.SHUT_RDWR)


watchdog = Watchdog()


def is_outage(error: psycopg.Error) -> bool:
    """Return whether the error means that the server is unavailable, not that a statement failed."""
    state = error.sqlstate
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        state is None or state.startswith(AWAY_STATES)
    )


def replace_spare_connections() -> None:
    """Close the idle connections of the pools, which the failed server has probably closed too.

    The pool would otherwise test them one by one, with growing pauses, until a minute after the
    outage.
    """
    from django.db.backends.postgresql.base import DatabaseWrapper

    for pool in list(DatabaseWrapper._connection_pools.values()):  # type: ignore[attr-defined]
        pool.drain()


def keep_connecting(pool: ConnectionPool[Any]) -> None:
    """Connect again, so that threads that are already waiting get a connection."""
    pool.check()


def database_answers() -> bool:
    """Return whether the server replies within PROBE_SECONDS; true if its address is unknown."""
    from django.db import connection

    host, port = connection.settings_dict["HOST"], str(connection.settings_dict["PORT"] or 5432)
    if not host or "," in host:
        return True
    try:
        with _connected(host, port) as probe:
            probe.sendall(SSL_REQUEST)
            return bool(probe.recv(1))
    except OSError:
        return False


def _connected(host: str, port: str) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, int(port)), timeout=PROBE_SECONDS)
    probe = socket.socket(socket.AF_UNIX)
    probe.settimeout(PROBE_SECONDS)
    try:
        probe.connect(f"{host}/.s.PGSQL.{port}")
    except OSError:
        probe.close()
        raise
    return probe

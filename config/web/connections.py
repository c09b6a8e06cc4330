"""Database connections that notice when the server has stopped answering.

The settings import this module, so it cannot use them at import time.
"""

import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
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
    """A connection that, in a web request, gives up on a server that has stopped answering.

    Statements have no time limit: after each second of silence the server is probed.
    """

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        if getattr(_thread, "limited", False):
            gen = self._with_probes(gen)
        try:
            return super().wait(gen, *args, **options)
        except psycopg.Error as error:
            if is_outage(error):
                replace_spare_connections()
            raise

    def _with_probes(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Wrap psycopg's generator, and probe the server after each second of silence.

        psycopg sends a false value after 0.1 seconds without data.
        """
        last_data_at = time.monotonic()
        try:
            awaited = next(gen)
            while True:
                ready = yield awaited
                now = time.monotonic()
                if ready:
                    last_data_at = now
                elif now - last_data_at > SILENT_SECONDS:
                    self._give_up_if_unavailable()
                    last_data_at = now
                awaited = gen.send(ready)
        except StopIteration as end:
            return end.value

    def _give_up_if_unavailable(self) -> None:
        if not database_answers():
            self.pgconn.finish()
            raise psycopg.OperationalError("the server has stopped answering")


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

"""Database connections that notice if the server has stopped answering.

The settings import this module, so it must not use them when it is imported.
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
"""Prefixes of SQLSTATEs that mean that the server is unreachable, starting, stopping or full."""
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""The message that requests TLS. The server answers with one byte, before authentication."""

_thread = threading.local()


@contextmanager
def limited_waiting() -> Iterator[None]:
    """Limit how long this thread waits for a silent database within the `with` block."""
    _thread.limited = True
    try:
        yield
    finally:
        _thread.limited = False


class OutageConnection(psycopg.Connection[Any]):
    """A connection that, in a web request, gives up if the server has stopped answering.

    A statement has no time limit. After each second of silence, the server is probed.
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

        psycopg sends a false value into the generator after every 0.1 seconds without data.
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
    """Return whether the error means that the server is unavailable, instead of a failed statement."""
    state = error.sqlstate
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        state is None or state.startswith(AWAY_STATES)
    )


def replace_spare_connections() -> None:
    """Replace the pools' idle connections, which the failed server has probably closed.

    Otherwise, a pool would test them one by one, with growing pauses, until a minute after the outage.
    """
    from django.db.backends.postgresql.base import DatabaseWrapper

    for pool in list(DatabaseWrapper._connection_pools.values()):  # type: ignore[attr-defined]
        pool.drain()


def keep_connecting(pool: ConnectionPool[Any]) -> None:
    """Open new connections, so that threads which are already waiting get one."""
    pool.check()


def database_answers() -> bool:
    """Return whether the server answers within PROBE_SECONDS, or True if its address is unknown."""
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

"""Tests of a database that has stopped answering but keeps its connections open."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from django.db import connection
from psycopg.conninfo import make_conninfo

from config.web.connections import SILENT_SECONDS, OutageConnection, limited_waiting
from tests.worker import database_url

pytestmark = pytest.mark.slow


class Proxy:
    """A proxy in front of PostgreSQL, which forwards nothing while `silent` is set."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.server_port = host, port
        self.silent = threading.Event()
        self.clients: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.clients.append(client)
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, self._server() as server:
            peers = {client: server, server: client}
            while True:
                for source in select.select(list(peers), [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if not self.silent.is_set():
                        peers[source].sendall(data)

    def disconnect(self) -> None:
        for client in self.clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _server(self) -> socket.socket:
        if not self.host.startswith("/"):
            return socket.create_connection((self.host, self.server_port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(Path(self.host) / f".s.PGSQL.{self.server_port}"))
        return server


@pytest.fixture
def proxy(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Yield a proxy. The product's probe of the database goes through it too."""
    server = connection.settings_dict
    proxy = Proxy(server["HOST"], int(server["PORT"] or 5432))
    monkeypatch.setitem(server, "HOST", "127.0.0.1")
    monkeypatch.setitem(server, "PORT", proxy.port)
    yield proxy
    proxy.listener.close()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[OutageConnection]:
    target = make_conninfo(database_url(), host="127.0.0.1", port=proxy.port, sslmode="disable")
    with OutageConnection.connect(target, autocommit=True) as client:
        yield client


def test_a_request_gives_up_on_a_silent_database(proxy: Proxy, client: OutageConnection) -> None:
    client.execute("SELECT 1")
    proxy.silent.set()
    began = time.monotonic()
    with limited_waiting(), pytest.raises(psycopg.OperationalError, match="stopped answering"):
        client.execute("SELECT 1")
    assert time.monotonic() - began > SILENT_SECONDS
    assert client.closed


def test_a_slow_statement_is_not_interrupted_while_the_database_answers(
    proxy: Proxy, client: OutageConnection
) -> None:
    with limited_waiting():
        row = client.execute("SELECT 'done', pg_sleep(%s)", [3 * SILENT_SECONDS]).fetchone()
    assert row == ("done", "")
    assert len(proxy.clients) > 1, "the watchdog probed the database"


def test_a_command_outside_a_request_waits_for_a_silent_database(
    proxy: Proxy, client: OutageConnection
) -> None:
    proxy.silent.set()
    waiting = threading.Thread(target=_execute, args=(client,), daemon=True)
    waiting.start()
    waiting.join(3 * SILENT_SECONDS)
    assert waiting.is_alive()
    proxy.disconnect()
    waiting.join(10)
    assert not waiting.is_alive()


def _execute(client: OutageConnection) -> None:
    with suppress(psycopg.OperationalError):
        client.execute("SELECT 1")

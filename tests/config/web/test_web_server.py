"""Tests of the web server with slow clients and large requests."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time

import psutil
import pytest

from config.env import BASE_DIR
from config.local.processes import free_port, wait_for_web
from config.web.limits import SMALL

THREADS = 2
LIMITS = {
    "TIEBREAK_HEADER_SECONDS": "2", "TIEBREAK_BODY_SECONDS": "1", "TIEBREAK_READ_SECONDS": "2",
    "TIEBREAK_PATH_PREFIX": "/tiebreak",
}  # fmt: skip


@pytest.fixture(scope="module")
def port():
    port = free_port(21000)
    process = subprocess.Popen(
        [
            sys.executable, "-m", "gunicorn", "config.wsgi:application",
            "--bind", f"127.0.0.1:{port}", "--worker-class", "config.web.server.BufferingWorker",
            "--threads", str(THREADS), "--log-level", "critical", "--no-control-socket",
        ],
        cwd=BASE_DIR,
        env={**os.environ, **LIMITS},
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_web(port, seconds=60)
    yield port
    process.terminate()
    assert process.wait(timeout=30) == 0


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def ask(port, method="GET", path="/health/", body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers or {})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, reply.headers, content


def until_closed(connection):
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\na=1",
    ],
    ids=["nothing", "half a header", "half a body"],
)
def test_half_sent_requests_hold_no_thread(port, part):
    waiting = [connect(port) for _ in range(50)]
    for connection in waiting:
        connection.sendall(part)
    assert ask(port)[::2] == (200, b"ok")
    for connection in waiting:
        connection.close()


def test_slow_readers_hold_no_thread(port):
    waiting = []
    for _ in range(50):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect(("127.0.0.1", port))
        for _ in range(20):
            connection.sendall(b"GET /i18n.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        waiting.append(connection)
    assert ask(port)[::2] == (200, b"ok")
    for connection in waiting:
        connection.close()


def test_an_endless_header_is_cut_off(port):
    with connect(port) as connection:
        connection.sendall(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n")
        assert until_closed(connection) == b""


def test_a_body_that_arrives_too_slowly_is_cut_off(port):
    with connect(port) as connection:
        connection.sendall(
            b"POST /login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 600\r\n\r\n"
        )
        with pytest.raises(ConnectionError):
            for _ in range(600):  # it would take a minute, and the limit is three seconds
                connection.sendall(b"a")
                time.sleep(0.1)


def test_a_slow_body_within_the_limit_is_accepted(port):
    with connect(port) as connection:
        connection.sendall(
            b"POST /login/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: 10\r\n\r\n"
        )
        for _ in range(10):
            connection.sendall(b"a")
            time.sleep(0.1)
        assert until_closed(connection).startswith(b"HTTP/1.1 403 ")  # without a CSRF token


def test_an_unread_response_is_cut_off(port):
    page = len(ask(port, path="/i18n.js")[2])
    count = 8_000_000 // page
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /i18n.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * count)
        until = time.monotonic() + 30
        while server_holds(connection):
            assert time.monotonic() < until, "the connection is kept"
            time.sleep(0.2)


def server_holds(connection):
    """Return whether a process has the other end of the connection open."""
    ours = connection.getsockname()
    return any(c.pid and c.raddr == ours for c in psutil.net_connections("tcp"))


@pytest.mark.parametrize("path", ["/login/", "/", "/api/v1/score", "/p/lamps/data/import/"])
def test_a_large_body_is_refused_before_it_is_read(port, path):
    with connect(port) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000000\r\n\r\n".encode()
        )
        reply = until_closed(connection)
    assert reply.startswith(b"HTTP/1.1 413 ") and b"MB" in reply
    if path.startswith("/api/"):
        assert json.loads(reply.split(b"\r\n\r\n", 1)[1])["status"] == 413


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ("Accept-Language: de", "Zu groß"),
        ("Cookie: django_language=de\r\nAccept-Language: en", "Zu groß"),
        ("Accept-Language: fr", "Too large"),
    ],
)
def test_a_browser_gets_a_translated_page_for_a_large_body(port, headers, sentence):
    with connect(port) as connection:
        connection.sendall(
            "POST /login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000000\r\n"
            f"Accept: text/html\r\n{headers}\r\n\r\n".encode()
        )
        head, _, body = until_closed(connection).decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 413 ")
    assert "Content-Type: text/html" in head and "default-src 'none'" in head
    assert f"<h1>{sentence}</h1>" in body


def test_a_client_that_keeps_sending_can_read_the_reason(port):
    with connect(port) as connection:
        connection.sendall(
            b"POST /login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000000\r\n\r\n"
        )
        connection.sendall(b"a" * 4_000_000)
        assert until_closed(connection).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_in_chunks_is_refused(port):
    with connect(port) as connection:
        connection.sendall(
            b"POST /login/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(SMALL // 65536 + 2):
            connection.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("length", ["\xb2", "-1", "9" * 4301, "1, 2", "0x10", "+5"])
def test_a_length_that_is_not_a_number_is_refused(port, length):
    with connect(port) as connection:
        connection.sendall(
            f"POST /login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode(
                "latin-1"
            )
        )
        assert until_closed(connection).split()[1] in {b"400", b"413"}


@pytest.mark.parametrize("header", ["SCRIPT_NAME", "Script-Name", "PATH_INFO", "X-Script-Name"])
def test_headers_do_not_change_urls(port, header):
    status, headers, _ = ask(port, path="/projects/", headers={header: "/evil"})
    assert (status, headers["Location"]) == (302, "/tiebreak/login/?next=/tiebreak/projects/")


def test_a_request_sent_in_small_pieces_is_answered(port):
    with connect(port) as connection:
        for byte in b"GET /health/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert until_closed(connection).endswith(b"ok")


# --- a prefix of the path ------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/tiebreak"])
def test_a_proxy_may_keep_or_remove_the_prefix(port, prefix):
    assert ask(port, path=f"{prefix}/health/")[0] == 200
    status, headers, _ = ask(port, path=f"{prefix}/projects/")
    assert (status, headers["Location"]) == (302, "/tiebreak/login/?next=/tiebreak/projects/")
    body = b"x" * (SMALL + 1)
    assert ask(port, "POST", f"{prefix}/api/v1/score", body)[1]["Content-Type"].startswith(
        "application/problem+json"
    )


def test_static_files_are_below_the_prefix(port):
    page = ask(port, path="/tiebreak/login/")[2].decode()
    address = re.search(r'href="([^"]*/css/tiebreak.css)"', page)
    assert address and address[1].startswith("/tiebreak/static/")
    assert ask(port, path=address[1])[0] == 200
    assert ask(port, path="/tiebreaks/login/")[0] == 404

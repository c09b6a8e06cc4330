"""A small OpenAI-shaped server for tests, which can fail in the ways that real servers do.

with OpenAIServer() as server:
    server.replies = lambda body: "text"      # the reply to a request's body
    server.faults = [status(429, retry_after="1")]   # the next requests fail in this way
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    server: "Listener"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake = self.server.fake
        with fake.lock:
            fake.requests.append(
                {"path": self.path, "headers": self.headers, "body": body, "at": time.monotonic()}
            )
            fake.running += 1
            fake.most_running = max(fake.most_running, fake.running)
            fault = fake.faults.pop(0) if fake.faults else fake.fault
        try:
            time.sleep(fake.seconds)
            fault(self) if fault else self.send_json(completion(fake.replies(body)))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with fake.lock:
                fake.running -= 1

    def send_json(self, value: Any, code: int = 200, **headers: str) -> None:
        self.send_bytes(json.dumps(value).encode(), code, **headers)

    def send_bytes(self, data: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    fake: "OpenAIServer"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class OpenAIServer:
    """A server on a free port of the loopback address. It records the requests."""

    def __init__(self) -> None:
        self.listener: Listener
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.replies: Callable[[dict[str, Any]], str] = lambda body: "a reply"
        self.faults: list[Fault | None] = []
        self.fault: Fault | None = None
        self.seconds = 0.0
        self.running = self.most_running = 0

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request["body"] for request in self.requests]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.server_address[1]}/v1"


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    fake = OpenAIServer()
    fake.listener = Listener(("127.0.0.1", 0), Handler)
    fake.listener.fake = fake
    thread = threading.Thread(target=fake.listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield fake
    fake.listener.shutdown()
    fake.listener.server_close()


def completion(text: Any, reason: str = "stop", **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
        **fields,
    }


# --- faults ---------------------------------------------------------------------------------------


def status(code: int, message: str = "no", **headers: str) -> Fault:
    error = {"error": {"message": message, "code": headers.pop("error_code", None)}}
    return lambda handler: handler.send_json(error, code, **headers)


def answer(value: Any) -> Fault:
    """Answer with this JSON value and status 200."""
    return lambda handler: handler.send_json(value)


def raw(data: bytes, **headers: str) -> Fault:
    return lambda handler: handler.send_bytes(data, **headers)


def cut_off(handler: Handler) -> None:
    """Announce more bytes than are sent, and close the connection."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def endless(handler: Handler) -> None:
    """Send bytes without an end, as fast as the client reads them."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"2710\r\n" + b"x" * 10000 + b"\r\n")


def slow(handler: Handler) -> None:
    """Send one byte of a response every tenth of a second, for a minute."""
    handler.send_response(200)
    handler.send_header("Content-Length", "600")
    handler.end_headers()
    for _ in range(600):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)

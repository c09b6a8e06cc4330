"""A server of reward models on a Unix socket. Models stay loaded while the server is in use.

    python -m reward.training.serve SOCKET

reward/scoring/wire.py defines the messages.

- Long requests are answered in parts, and a new request may start after each part, so that no client
  waits for the long request of another client.
- A request names the folder of its model. The last `--models` models that were used stay loaded. torch
  is not imported before the first request.
- The process replaces itself with a new process on the same socket after `--idle` seconds without a
  request, or if it uses more than `--memory` MB. This frees all memory, and clients do not notice it.
  Without a GPU, `--memory` is also the maximum that the process may allocate.
- Up to `--waiting` requests may wait. The next one gets the reply "busy". A request is dropped if it
  waits longer than its own limit, or if its client disconnects, even between two forward passes.
- A second process on the same socket waits until the first one has ended, and then replaces it.
"""

import argparse
import fcntl
import os
import queue
import select
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward.scoring.wire import address, receive, send
from reward.training.serving.process import log

READ_SECONDS = 10
READERS = 64
CLOSE_SECONDS = 0.5
TOGETHER = 16
"""The maximum number of responses in a forward pass with a shared prompt, as in score.py."""
PART_CHARACTERS = 16_000
"""The number of characters in a part of a request. A small model needs about 0.1 seconds for it."""
MAX_STARTED = 8
"""The maximum number of requests that are answered in turn. Others wait until one of them ends."""
INHERITED_FDS = "TIEBREAK_SCORER_FDS"
"""The environment variable that passes the socket and the lock to the next process."""


Conversation = tuple[list[dict[str, str]], list[str]]
Piece = tuple[int, list[dict[str, str]], list[str]]


@dataclass
class Request:
    """A request, and the reply so far.

    A request is divided into pieces. Each has the index of a conversation, its prompt, and responses
    that the model reads in the same forward pass as the prompt.
    """

    connection: socket.socket
    model: str
    conversations: list[Conversation]
    until: float  # by the monotonic clock
    reply: dict[str, Any] = field(init=False)
    pieces: deque[Piece] = field(init=False)

    def __post_init__(self) -> None:
        self.pieces = deque(
            (number, prompt, responses[start : start + TOGETHER])
            for number, (prompt, responses) in enumerate(self.conversations)
            for start in range(0, len(responses), TOGETHER)
        )
        self.reply = {"verdicts": [{} for _ in self.conversations], "forwarded": 0}

    def next_part(self) -> list[Piece]:
        """Return the next pieces: at least one, with up to PART_CHARACTERS of text."""
        part: list[Piece] = []
        size = 0
        while self.pieces and (not part or size < PART_CHARACTERS):
            part.append(self.pieces.popleft())
            _, prompt, responses = part[-1]
            size += sum(len(turn["content"]) for turn in prompt) + sum(map(len, responses))
        return part

    def add(self, numbers: list[int], reply: dict[str, Any]) -> None:
        """Add the reply for one part to the reply for the whole request.

        `numbers` contains, for each piece of the part, the index of its conversation.
        """
        for number, verdict in zip(numbers, reply["verdicts"], strict=True):
            whole = self.reply["verdicts"][number]
            for name, values in verdict.items():
                whole[name] = whole.get(name, []) + values
        self.reply["limit"] = reply["limit"]
        self.reply["forwarded"] += reply["forwarded"]

    def client_left(self) -> bool:
        """Return whether the client has closed the connection."""
        watch = select.poll()
        watch.register(self.connection, 0)  # a hangup is always reported
        return bool(watch.poll(0))


class Listener:
    """A listener that reads requests from the socket into a bounded queue, in separate threads."""

    def __init__(self, socket: socket.socket, waiting: int):
        self.socket = socket
        self.requests: queue.Queue[Request] = queue.Queue(waiting)
        self.readers = threading.BoundedSemaphore(READERS)
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._accept, daemon=True)
        socket.settimeout(CLOSE_SECONDS)

    def open(self) -> None:
        self.thread.start()

    def next(self, seconds: float | None) -> Request | None:
        """Return the next request, or None if none arrives within `seconds`."""
        try:
            return self.requests.get(timeout=seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Stop accepting connections. Pending connections stay in the backlog.

        Requests from accepted connections are queued.
        """
        self.closing.set()
        self.thread.join()
        for _ in range(READERS):
            self.readers.acquire(timeout=READ_SECONDS)

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self.socket.accept()
            except TimeoutError:
                continue
            except OSError:  # no file descriptor is free at the moment
                time.sleep(CLOSE_SECONDS)
                continue
            if self.readers.acquire(blocking=False):
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()
            else:
                connection.close()

    def _read(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(READ_SECONDS)
            message = receive(connection)
            if message.get("ping"):
                return reply(connection, {"pong": True})
            until = time.monotonic() + float(message["seconds"])
            request = Request(connection, message["model"], message["conversations"], until)
            self.requests.put_nowait(request)
        except queue.Full:
            refuse(connection, "busy", "Too many requests are waiting.")
        except (OSError, ValueError, KeyError, TypeError) as error:
            refuse(connection, "failed", f"Invalid request: {error}")
        finally:
            self.readers.release()
        return None


class RoundRobin:
    """The order of the work. New requests alternate with started ones, which take turns."""

    def __init__(self, listener: Listener):
        self.listener = listener
        self.started: deque[Request] = deque()
        self.new_next = True

    def next(self, seconds: float | None) -> Request | None:
        """Return the request to work on, or None if none arrives within `seconds`."""
        if not self.started:
            return self.listener.next(seconds)
        may_start = self.new_next and len(self.started) < MAX_STARTED
        if may_start and (request := self.listener.next(0)):
            self.new_next = False
            return request
        self.new_next = True
        return self.started.popleft()

    def put_back(self, request: Request) -> None:
        self.started.append(request)


def reply(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a reply, unless the client has disconnected."""
    with suppress(OSError), connection:
        send(connection, message)


def refuse(connection: socket.socket, error: str, text: str) -> None:
    reply(connection, {"error": error, "text": text})


def serve(listener: Listener, *, idle: float, memory: int, models: int) -> None:
    """Answer requests until the server is idle or uses more than `memory` MB.

    The caller then restarts the process.
    """
    cache: Any = None
    turns = RoundRobin(listener)
    listener.open()
    while not (cache and cache.too_large()):
        request = turns.next(idle if cache else None)
        if request is None:
            log(f"No request for {idle:g} seconds; the models are unloaded.")
            break
        if cache is None and is_live(request):
            from reward.training.serving.cache import ModelCache

            cache = ModelCache(models, memory_mb=memory)
        if not answer(cache, request):
            turns.put_back(request)
    else:
        log(f"More than {memory} MB in use; restarting.")
    listener.close()
    while request := turns.next(0.01):
        if not answer(cache, request):
            turns.put_back(request)


def answer(cache: Any, request: Request) -> bool:
    """Answer the next part of a request. Return whether the reply to the request has been sent."""
    if cache is None or not is_live(request):
        refuse(request.connection, "late", "The request waited longer than its limit.")
        return True
    part = request.next_part()
    message = cache.answer(
        request.model,
        [(prompt, responses) for _, prompt, responses in part],
        stop=request.client_left,
    )
    if "error" not in message:
        request.add([number for number, _, _ in part], message)
        if request.pieces:
            return False
        message = request.reply
    reply(request.connection, message)
    return True


def is_live(request: Request) -> bool:
    """Return whether the request is within its time limit and its client is still connected."""
    return request.until > time.monotonic() and not request.client_left()


# --- the process ----------------------------------------------------------------------------------


def open_socket(path: Path) -> tuple[socket.socket, int]:
    """Return the listening socket, and the lock by which only one process listens.

    This waits for the lock. Only the owner may connect. Raises ValueError if the path is too long.
    """
    socket_address = address(path)
    if inherited := os.environ.pop(INHERITED_FDS, ""):
        socket_fd, lock_fd = map(int, inherited.split(","))
        return socket.socket(fileno=socket_fd), lock_fd
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(socket_address)
    finally:
        os.umask(before)
    listener.listen(READERS)
    return listener, lock


def restart(listener: socket.socket, lock: int) -> None:
    """Replace this process with a new one, which has the same process id and the same socket."""
    for descriptor in (listener.fileno(), lock):
        os.set_inheritable(descriptor, True)
    os.environ[INHERITED_FDS] = f"{listener.fileno()},{lock}"
    os.execv(sys.executable, [sys.executable, "-m", "reward.training.serve", *sys.argv[1:]])  # noqa: S606


def half_of_memory() -> int:
    """Return half of this machine's memory in MB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**21


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("socket", type=Path, help="where to listen")
    parser.add_argument(
        "--idle",
        type=float,
        default=600,
        help="seconds without a request before models are unloaded",
    )
    parser.add_argument("--memory", type=int, default=0, help="MB; 0 for half of the machine's")
    parser.add_argument("--models", type=int, default=1, help="maximum models that stay loaded")
    parser.add_argument("--waiting", type=int, default=16, help="requests that may wait")
    options = parser.parse_args()
    try:
        listener, lock = open_socket(options.socket)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    memory = options.memory or half_of_memory()
    serve(
        Listener(listener, options.waiting), idle=options.idle, memory=memory, models=options.models
    )
    restart(listener, lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())

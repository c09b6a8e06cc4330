"""A warm reward model behind a Unix socket: loaded once, it answers until it is idle.

    python -m reward.training.serve SOCKET

Questions take turns: a long one is answered in parts, and a new one is begun after each part, so that
no client has to wait for another's long question. A question names the folder of its model, so the model changes with the question; `--models` stay
loaded, the one longest unused leaves first. Nothing of torch is imported before the first question.
After `--idle` seconds, and when it holds more than `--memory` MB, the process begins anew as a fresh
one on the same socket, which gives all memory back; nobody who connects notices. On a machine without
a GPU `--memory` is also the most that it may allocate. `--waiting` questions may wait; one more is
told that the scorer is busy, and one that waited longer than it said is dropped; so is one whose
asker has left, even between two forward passes. A second process on the same socket waits in reserve
until the first has ended. reward/scoring/wire.py has the messages.
"""

import argparse
import fcntl
import os
import queue
import resource
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

READ_SECONDS = 10
READERS = 64
CLOSE_SECONDS = 0.5
TOGETHER = 16
"""Responses of a prompt that the model reads at once; the same number as in score.py."""
PART_CHARACTERS = 16_000
"""Text of one part of a question. A part takes about a tenth of a second for a small model."""
BEGUN = 8
"""Questions that are answered in turns; more wait until one of these has ended."""
ANEW = "TIEBREAK_SCORER_FDS"
"""Names the socket and the lock for the process that follows this one."""


Conversation = tuple[list[dict[str, str]], list[str]]
Piece = tuple[int, list[dict[str, str]], list[str]]


@dataclass
class Question:
    """A question and what has been answered of it.

    It is cut into pieces: a conversation's number, its prompt, and responses that the model reads
    with the prompt in one pass.
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
        """Take the next pieces, up to PART_CHARACTERS of text and at least one."""
        part: list[Piece] = []
        size = 0
        while self.pieces and (not part or size < PART_CHARACTERS):
            part.append(self.pieces.popleft())
            _, prompt, responses = part[-1]
            size += sum(len(turn["content"]) for turn in prompt) + sum(map(len, responses))
        return part

    def add(self, numbers: list[int], reply: dict[str, Any]) -> None:
        """Note the answer to the pieces of the conversations with these numbers."""
        for number, verdict in zip(numbers, reply["verdicts"], strict=True):
            whole = self.reply["verdicts"][number]
            for name, values in verdict.items():
                whole[name] = whole.get(name, []) + values
        self.reply["limit"] = reply["limit"]
        self.reply["forwarded"] += reply["forwarded"]

    def asker_left(self) -> bool:
        """The other side has closed the connection, and reads no answer."""
        watch = select.poll()
        watch.register(self.connection, 0)  # a hangup is always told
        return bool(watch.poll(0))


class Door:
    """Reads questions from the socket into a queue with a bound, beside the thread that answers."""

    def __init__(self, listener: socket.socket, waiting: int):
        self.listener = listener
        self.questions: queue.Queue[Question] = queue.Queue(waiting)
        self.readers = threading.BoundedSemaphore(READERS)
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._accept, daemon=True)
        listener.settimeout(CLOSE_SECONDS)

    def open(self) -> None:
        self.thread.start()

    def next(self, seconds: float | None) -> Question | None:
        """None when there was none for so long."""
        try:
            return self.questions.get(timeout=seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Let nobody else in. Who is at the door waits there; who was let in is in the queue."""
        self.closing.set()
        self.thread.join()
        for _ in range(READERS):
            self.readers.acquire(timeout=READ_SECONDS)

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self.listener.accept()
            except TimeoutError:
                continue
            except OSError:  # no descriptor is free, for the moment
                time.sleep(CLOSE_SECONDS)
                continue
            if self.readers.acquire(blocking=False):
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()
            else:
                connection.close()

    def _read(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(READ_SECONDS)
            asked = receive(connection)
            if asked.get("ping"):
                return reply(connection, {"pong": True})
            until = time.monotonic() + float(asked["seconds"])
            question = Question(connection, asked["model"], asked["conversations"], until)
            self.questions.put_nowait(question)
        except queue.Full:
            refuse(connection, "busy", "Too many questions wait already.")
        except (OSError, ValueError, KeyError, TypeError) as error:
            refuse(connection, "failed", f"The question was not understood: {error}")
        finally:
            self.readers.release()
        return None


class Turns:
    """Whose turn it is: new questions and those begun alternate, the latter in a circle."""

    def __init__(self, door: Door):
        self.door = door
        self.begun: deque[Question] = deque()
        self.new_next = True

    def next(self, seconds: float | None) -> Question | None:
        """Return the question to work on; None when there was none for so long."""
        if not self.begun:
            return self.door.next(seconds)
        if self.new_next and len(self.begun) < BEGUN and (question := self.door.next(0)):
            self.new_next = False
            return question
        self.new_next = True
        return self.begun.popleft()

    def put_back(self, question: Question) -> None:
        self.begun.append(question)


def reply(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a reply; the client may have disconnected."""
    with suppress(OSError), connection:
        send(connection, message)


def refuse(connection: socket.socket, why: str, text: str) -> None:
    reply(connection, {"error": why, "text": text})


def serve(door: Door, *, idle: float, memory: int, models: int) -> None:
    """Answer until idle or too large; the caller then restarts. `memory` is in MB."""
    shelf: Any = None
    turns = Turns(door)
    door.open()
    while not (shelf and shelf.too_large()):
        question = turns.next(idle if shelf else None)
        if question is None:
            say(f"Nothing was asked for {idle:g} seconds; the model is unloaded.")
            break
        if shelf is None and in_time(question):
            from reward.training.served import Shelf

            shelf = Shelf(models, memory_mb=memory)
        if not answer(shelf, question):
            turns.put_back(question)
    else:
        say(f"It holds more than {memory} MB; it restarts.")
    door.close()
    while question := turns.next(0.01):
        if not answer(shelf, question):
            turns.put_back(question)


def answer(shelf: Any, question: Question) -> bool:
    """Answer the next part of a question. Return whether that was the last, and was replied."""
    if shelf is None or not in_time(question):
        refuse(question.connection, "late", "It waited longer than it was given.")
        return True
    part = question.next_part()
    said = shelf.answer(
        question.model,
        [(prompt, responses) for _, prompt, responses in part],
        stop=question.asker_left,
    )
    if "error" not in said:
        question.add([number for number, _, _ in part], said)
        if question.pieces:
            return False
        said = question.reply
    reply(question.connection, said)
    return True


def in_time(question: Question) -> bool:
    return question.until > time.monotonic() and not question.asker_left()


def say(text: str) -> None:
    print(f"scorer: {text}", file=sys.stderr, flush=True)


# --- the process ----------------------------------------------------------------------------------


def opened(path: Path) -> tuple[socket.socket, int]:
    """The listening socket, and the lock that keeps it to one process; waits for the lock.

    Only the owner may connect. Raises ValueError when the path is too long.
    """
    where = address(path)
    if inherited := os.environ.pop(ANEW, ""):
        ours, kept = map(int, inherited.split(","))
        return socket.socket(fileno=ours), kept
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(where)
    finally:
        os.umask(before)
    listener.listen(READERS)
    return listener, lock


def begin_anew(listener: socket.socket, lock: int) -> None:
    """A fresh process with this one's number, on the same socket."""
    for descriptor in (listener.fileno(), lock):
        os.set_inheritable(descriptor, True)
    os.environ[ANEW] = f"{listener.fileno()},{lock}"
    os.execv(sys.executable, [sys.executable, "-m", "reward.training.serve", *sys.argv[1:]])  # noqa: S606


def half_the_memory() -> int:
    """Of this machine, in MB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**21


def bound_memory(megabytes: int) -> None:
    """Limit this process's memory, so that it fails before the machine runs out."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 2**20, hard))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("socket", type=Path, help="where to listen")
    parser.add_argument("--idle", type=float, default=600, help="seconds until unloaded")
    parser.add_argument("--memory", type=int, default=0, help="MB; 0: half of the machine's")
    parser.add_argument("--models", type=int, default=1, help="that stay loaded")
    parser.add_argument("--waiting", type=int, default=16, help="questions that may wait")
    asked = parser.parse_args()
    try:
        listener, lock = opened(asked.socket)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    memory = asked.memory or half_the_memory()
    serve(Door(listener, asked.waiting), idle=asked.idle, memory=memory, models=asked.models)
    begin_anew(listener, lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The web server and the worker on one machine, as one thing to start and to stop."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from django.conf import settings

from config.env import BASE_DIR
from reward.wire import address
from runs.child import environment

STOP_SECONDS = 20
RESTART_SECONDS = 2
FIRST_PORT = 8000
LAST_PORT = 65535
PORTS_TRIED = 100


@dataclass
class Service:
    """A child process that is started again when it dies, and that dies when this process does.

    runs.leash holds it: closing the pipe ends it and everything it started, at once.
    """

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pipe: int = -1
    recipe: bool = False
    """Whether it does without the database and so is not told where that is."""

    def start(self) -> None:
        self.started_at = time.monotonic()
        self._let_go()
        held, self.pipe = os.pipe()
        with Path(os.devnull).open() as no_lock:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "runs.leash",
                    str(held),
                    str(no_lock.fileno()),
                    *self.command,
                ],
                cwd=BASE_DIR,
                env=environment(self.command) if self.recipe else None,
                stdin=subprocess.DEVNULL,
                pass_fds=[held, no_lock.fileno()],
                start_new_session=True,
            )
        os.close(held)

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def ask_to_stop(self) -> None:
        if self.process and self.process.poll() is None:
            with suppress(BrokenPipeError):
                os.write(self.pipe, b"T")

    def stop(self, deadline: float) -> None:
        """Wait for it to end, and end it at `deadline` (time.monotonic seconds)."""
        if not self.process:
            return
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.1, deadline - time.monotonic()))
        self._let_go()
        self.process.wait()

    def _let_go(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1


class Services:
    """Several services, started together, kept alive, and stopped together however this ends."""

    def __init__(self, services: list[Service], out: TextIO = sys.stderr):
        self.services = services
        self.out = out

    def __enter__(self) -> "Services":
        for service in self.services:
            service.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for service in self.services:
            service.ask_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for service in self.services:
            service.stop(deadline)

    def revive(self) -> None:
        """Start again what has died, at most every RESTART_SECONDS, and say so."""
        for service in self.services:
            if service.ended() and time.monotonic() - service.started_at > RESTART_SECONDS:
                status = service.process.returncode if service.process else None
                print(f"{service.name} ended (status {status}); starting it again.", file=self.out)
                service.start()

    def watch(self, until: Callable[[], bool] = lambda: False) -> None:
        while not until():
            self.revive()
            time.sleep(0.5)


def free_port(first: int = FIRST_PORT, host: str = "127.0.0.1") -> int:
    """The first port from `first` on that nobody listens on. Raises OSError when all are taken."""
    last = min(first + PORTS_TRIED - 1, LAST_PORT)
    for port in range(first, last + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"every port from {first} to {last} is taken")


def web(port: int) -> Service:
    return Service(
        "web",
        [
            sys.executable, "-m", "gunicorn", "config.wsgi:application", "--bind", f"127.0.0.1:{port}",
            "--worker-class", "gthread", "--workers", "1", "--threads", "4", "--log-level", "warning",
            "--graceful-timeout", "5", "--no-control-socket",
        ],
    )  # fmt: skip


def worker() -> Service:
    return Service(
        "worker",
        [
            sys.executable, "-m", "celery", "--app", "config", "--quiet", "worker", "--beat",
            "--pool", "threads", "--concurrency", "4", "--queues", "default,gpu",
            "--loglevel", "warning", "--without-gossip", "--without-mingle",
        ],
    )  # fmt: skip


def scorer() -> Service:
    """Fifteen megabytes until somebody asks for a score; then as much as the reward model takes."""
    return Service(
        "scorer",
        [
            sys.executable, "-m", "reward.training.serve", str(settings.SCORER_SOCKET),
            "--idle", str(settings.SCORER_IDLE_SECONDS), "--memory", str(settings.SCORER_MEMORY_MB),
            "--models", str(settings.SCORER_MODELS), "--waiting", str(settings.SCORER_WAITING),
        ],
        recipe=True,
    )  # fmt: skip


def scorers() -> list[Service]:
    """One; none where the data lies too deep for a socket, rather than one that never starts."""
    try:
        address(settings.SCORER_SOCKET)
    except ValueError:
        return []
    return [scorer()]


def wait_for_web(port: int, seconds: float = 30) -> None:
    """Return once the port answers. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"the web server did not answer on port {port} within {seconds:.0f} seconds")

"""Start and stop all services on one machine together: the web server, the worker and others."""

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

from django.conf import settings

from config.env import BASE_DIR
from config.local.services import LocalServicesError, keeper_log, revive_keeper
from config.local.supervision import Restarts, sentence
from runs.supervision.child import environment
from serving.address import UNIX, WrongAddress, check_address

STOP_SECONDS = 20
POLL_SECONDS = 0.2
FIRST_PORT = 8000
LAST_PORT = 65535
PORTS_TRIED = 100
LIVE_NICENESS = 5
# As root, Celery warns about pickled messages, but Tiebreak's messages are JSON.
NO_ROOT_WARNING = "ignore:You're running the worker with superuser privileges"


@dataclass
class Service:
    """A child process that is restarted when it ends, and that ends when this process ends.

    It runs under runs.supervision.watchdog, which kills it and all its children when the pipe closes.
    """

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pipe: int = -1
    recipe: bool = False
    """Whether this is a recipe, which needs no database and does not get its URL."""
    variables: dict[str, str] = field(default_factory=dict, repr=False)
    """Further environment variables, such as a secret that a recipe needs."""
    output: IO[bytes] | None = None
    """The file to which the output is written, or None to use this process's output."""
    restarts: Restarts = field(default_factory=Restarts)

    def start(self) -> None:
        self.started_at = time.monotonic()
        self._close_pipe()
        child_end, self.pipe = os.pipe()
        with Path(os.devnull).open() as no_lock:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "runs.supervision.watchdog",
                    str(child_end),
                    str(no_lock.fileno()),
                    "",
                    *self.command,
                ],
                cwd=BASE_DIR,
                env={
                    **(environment(self.command) if self.recipe else os.environ),
                    **self.variables,
                },
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=self.output,
                pass_fds=[child_end, no_lock.fileno()],
                start_new_session=True,
            )
        os.close(child_end)

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def revive(self) -> str:
        """Restart the process if it has ended and its pause is over. Return a message, or ""."""
        message = ""
        if self.process and self.ended():
            pause = self.restarts.ended(started_at=self.started_at)
            message = sentence(self.name, self.process.returncode, pause)
            self.process = None
        if self.process is None and self.restarts.due():
            self.start()
        return message

    def ask_to_stop(self) -> None:
        if self.process and self.process.poll() is None:
            with suppress(BrokenPipeError):
                os.write(self.pipe, b"T")

    def stop(self, deadline: float) -> None:
        """Wait for the process to end, and kill it at `deadline`, a time of time.monotonic()."""
        if not self.process:
            return
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.1, deadline - time.monotonic()))
        self._close_pipe()
        self.process.wait()

    def _close_pipe(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1


class Services:
    """A context manager that starts services, restarts those that end, and stops all of them on exit.

    Messages about ended processes are written to `out`, and the services' own output to `output`.
    """

    def __init__(
        self, services: list[Service], out: TextIO = sys.stderr, output: IO[bytes] | None = None
    ):
        self.services = services
        self.out = out
        self.keeper_messages = _size(keeper_log())
        for service in services:
            service.output = output

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
        """Restart every process that has ended, including the local PostgreSQL and Redis."""
        for service in self.services:
            if message := service.revive():
                print(message, file=self.out, flush=True)
        try:
            if revive_keeper():
                print("Started the local PostgreSQL and Redis again.", file=self.out, flush=True)
        except LocalServicesError as error:
            print(f"{error} Trying again.", file=self.out, flush=True)
        self._pass_on_keeper_messages()

    def _pass_on_keeper_messages(self) -> None:
        """Print the messages that the keeper has logged since the last call."""
        size = _size(keeper_log())
        if size > self.keeper_messages:
            with keeper_log().open() as log:
                log.seek(self.keeper_messages)
                print(log.read(), end="", file=self.out, flush=True)
        self.keeper_messages = size

    def watch(self, until: Callable[[], bool] = lambda: False) -> None:
        while not until():
            self.revive()
            time.sleep(POLL_SECONDS)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class AlreadyRunning(Exception):  # noqa: N818
    """Raised if another process serves the same data. The message names it and says what to do."""


@contextmanager
def only_one() -> Iterator[Callable[[int], None]]:
    """Hold the lock for serving the data folder, and yield a function that records the port in its file.

    Raises AlreadyRunning if another process holds the lock.
    """
    path = settings.VAR_DIR / "serving.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunning(
                f"Tiebreak is already running on {settings.VAR_DIR}: {file.read().strip()}. Use that "
                "one, or stop it first. For a second installation, set TIEBREAK_VAR to another "
                "folder."
            ) from None

        def note(text: str) -> None:
            file.truncate(0)
            file.write(f"process {os.getpid()}{text}")
            file.flush()

        note("")
        yield lambda port: note(f", http://127.0.0.1:{port}/")


def free_port(first: int = FIRST_PORT, host: str = "127.0.0.1") -> int:
    """Return the first free port, starting at `first`. Raises OSError if all ports are taken."""
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


def web(port: int, live_port: int) -> Service:
    return Service(
        "web",
        [
            sys.executable, "-m", "gunicorn", "config.wsgi:application", "--bind", f"127.0.0.1:{port}",
            "--worker-class", "config.web.server.BufferingWorker", "--workers", "1", "--threads", "4", "--log-level", "warning",
            "--graceful-timeout", "5", "--no-control-socket",
        ],
        variables={"TIEBREAK_LIVE_PORT": str(live_port)},
    )  # fmt: skip


def live(port: int) -> Service:
    """Return the server of WebSockets. Messages to it are at most 128 KiB.

    Its priority is low, so that reviewers' pages stay fast while many answers stream.
    """
    return Service(
        "live",
        [
            sys.executable, "-m", "serving.priority", str(LIVE_NICENESS),
            sys.executable, "-m", "uvicorn", "config.asgi:application", "--host", "127.0.0.1",
            "--port", str(port), "--log-level", "warning", "--lifespan", "off",
            "--ws-max-size", "131072", "--timeout-graceful-shutdown", "5",
        ],
    )  # fmt: skip


def worker(runs_at_once: int) -> Service:
    return Service(
        "worker",
        [
            sys.executable, "-W", NO_ROOT_WARNING, "-m", "celery",
            "--app", "config", "--quiet", "worker", "--pool", "threads",
            "--concurrency", "4", "--queues", "default,gpu", "--loglevel", "warning",
            "--without-gossip", "--without-mingle",
        ],
        variables={"TIEBREAK_RUNS_AT_ONCE": str(runs_at_once)},
    )  # fmt: skip


def beat() -> Service:
    """Return the scheduler of periodic tasks. It is a service of its own, separate from the worker."""
    return Service(
        "beat",
        [
            sys.executable, "-m", "celery", "--app", "config", "--quiet", "beat",
            "--loglevel", "warning", "--pidfile", "",
        ],
    )  # fmt: skip


def everything(port: int, *, runs_at_once: int = 0) -> list[Service]:
    """Return all services, with a web server on this port.

    The worker executes at least `runs_at_once` runs at a time, or more if the setting is higher.
    """
    live_port = free_port(port + 1)
    return [
        web(port, live_port),
        live(live_port),
        worker(max(runs_at_once, settings.RUNS_AT_ONCE)),
        beat(),
        *model_servers(),
    ]


def model_server() -> Service:
    """Return the model server. It loads no model, and not even torch, before the first request."""
    line = [
        sys.executable, "-m", "finetune.training.serve", settings.MODEL_SERVER.address,
        "--idle", str(settings.MODEL_SERVER_IDLE_SECONDS),
        "--memory", str(settings.MODEL_SERVER_MEMORY_MB),
        "--adapters", str(settings.MODEL_SERVER_ADAPTERS),
        "--streams", str(settings.MODEL_SERVER_STREAMS),
        "--waiting", str(settings.MODEL_SERVER_WAITING),
        "--max-tokens", str(settings.MODEL_SERVER_MAX_TOKENS),
    ]  # fmt: skip
    if settings.MODEL_SERVER_CERTIFICATE:
        line += ["--certificate", settings.MODEL_SERVER_CERTIFICATE]
    if settings.MODEL_SERVER_KEY:
        line += ["--key", settings.MODEL_SERVER_KEY]
    token = settings.MODEL_SERVER.token
    variables = {"TIEBREAK_MODEL_SERVER_TOKEN": token} if token else {}
    return Service("model server", line, recipe=True, variables=variables)


def model_servers() -> list[Service]:
    """Return the model server, or an empty list if it runs elsewhere or its address is not valid."""
    try:
        check_address(settings.MODEL_SERVER.address)
    except WrongAddress:
        return []
    return [model_server()] if settings.MODEL_SERVER.address.startswith(UNIX) else []


def wait_for_web(port: int, seconds: float = 30) -> None:
    """Wait until the port accepts connections. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"the web server did not answer on port {port} within {seconds:.0f} seconds")

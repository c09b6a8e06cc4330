"""The process of the model server: its address, its idle restarts, and its memory.

This module does not need torch.
"""

import argparse
import asyncio
import fcntl
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.address import (
    LOCK_SUFFIX,
    SERVER_OPTIONS,
    UNIX,
    WrongAddress,
    check_address,
    is_local,
)
from serving.priority import give_way
from serving.server.calls import Guard
from serving.server.engine import Engine, Limits, log
from serving.server.memory import MB, MIN_MEMORY_MB

NICENESS = 5
"""The server gives way to the web server and the database on the same machine."""
TOKEN = "TIEBREAK_MODEL_SERVER_TOKEN"  # noqa: S105  # the name of a variable
INHERITED_LOCK = "TIEBREAK_MODEL_SERVER_LOCK"
"""The environment variable that passes the lock of the socket to the next process."""
POLL_SECONDS = 0.2
GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class HostedService:
    """A gRPC service: its full name, and the function that adds it to a server of an engine."""

    name: str
    add: Callable[[Engine, grpc.aio.Server], None]


def main(
    module: str,
    description: str,
    services: Sequence[HostedService],
    make_memory: Callable[[Limits], Any],
) -> int:
    """Run the server of `services` until SIGTERM, and return the exit status.

    `make_memory` is called before the first job. If the server is idle or its memory is full, the
    process replaces itself with a new one that runs `module`.
    """
    options = parser(description).parse_args()
    token = os.environ.get(TOKEN, "").strip()
    give_way(NICENESS)
    limits = Limits(**{each.name: getattr(options, each.name) for each in fields(Limits)})
    engine = Engine(lambda: make_memory(limits), limits)
    try:
        check_address(options.address)
        lock = wait_for_turn(options.address)
        restarts = asyncio.run(run(options, token, engine, services))
    except WrongAddress as error:
        print(error, file=sys.stderr)
        return 1
    if restarts:
        restart(module, lock)
    return 0


async def run(
    options: argparse.Namespace, token: str, engine: Engine, services: Sequence[HostedService]
) -> bool:
    """Answer requests. Return whether the process should restart. Raises WrongAddress."""
    server = grpc.aio.server(interceptors=[Guard(token)], options=SERVER_OPTIONS)
    bind(server, options, token)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    for service in services:
        service.add(engine, server)
        await status.set(service.name, health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    engine.start()
    log(f"answers at {options.address}.")
    reason = ""
    while not (stopping.is_set() or reason):
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), POLL_SECONDS)
        reason = reason_to_restart(engine, options.idle)
    limit_memory(None)  # the end needs a little memory too
    await status.enter_graceful_shutdown()
    engine.stop()
    while engine.is_running():
        await asyncio.sleep(POLL_SECONDS)
    await server.stop(GRACE_SECONDS)
    if stopping.is_set():
        return False
    log(reason)
    return True


def reason_to_restart(engine: Engine, idle: float) -> str:
    """Return why a new process should replace this one, or "". A restart frees all memory."""
    if engine.memory is None or engine.jobs:
        return ""
    if engine.memory.too_large():
        return f"The {engine.memory.megabytes:,} MB of memory were full; restarting."
    if time.monotonic() - engine.used_at > idle:
        return f"No request for {idle:g} seconds; the models are unloaded."
    return ""


def restart(module: str, lock: Any) -> None:
    """Replace this process with a new one, which has the same process id and keeps the lock."""
    if lock:
        os.set_inheritable(lock.fileno(), True)
        os.environ[INHERITED_LOCK] = str(lock.fileno())
    os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])  # noqa: S606


def wait_for_turn(address: str) -> Any:
    """Wait until no other server uses the socket of an address, and return the lock to keep.

    A second server on one socket is a reserve: it takes over when the first one ends. The lock is kept
    during a restart, so that clients can see that the server answers soon.
    """
    if inherited := os.environ.pop(INHERITED_LOCK, ""):
        return os.fdopen(int(inherited), "w")
    if not address.startswith(UNIX):
        return None
    path = Path(address.removeprefix(UNIX))
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + LOCK_SUFFIX).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def bind(server: grpc.aio.Server, options: argparse.Namespace, token: str) -> None:
    """Open the address of the server. Raises WrongAddress."""
    if options.address.startswith(UNIX):
        before = os.umask(0o177)  # only the owner may connect
        try:
            bound = _add_port(server, options.address, None)
        finally:
            os.umask(before)
    elif is_local(options.address) and not options.certificate:
        bound = _add_port(server, options.address, None)
    else:
        bound = _add_port(server, options.address, _credentials(options, token))
    if not bound:
        raise WrongAddress(f"{options.address} cannot be opened. Another server may use it.")


def _add_port(server: grpc.aio.Server, address: str, credentials: Any) -> int:
    try:
        if credentials:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError:
        return 0


def _credentials(options: argparse.Namespace, token: str) -> Any:
    """Return the credentials for TLS. Raises WrongAddress if a part is missing."""
    if not token:
        raise WrongAddress(f"Other machines can reach {options.address}. Set {TOKEN}.")
    if not (options.certificate and options.key):
        raise WrongAddress(
            f"Other machines can reach {options.address}, so it needs TLS. Set --certificate and --key."
        )
    try:
        pair = (options.key.read_bytes(), options.certificate.read_bytes())
    except OSError as error:
        raise WrongAddress(f"{error.filename} cannot be read: {error.strerror}.") from None
    return grpc.ssl_server_credentials([pair])


def parser(description: str) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Limits()
    result.add_argument("address", help="unix:/PATH for a socket, or HOST:PORT")
    result.add_argument("--certificate", type=Path, help="PEM file of the server's certificate")
    result.add_argument("--key", type=Path, help="PEM file of the certificate's private key")
    result.add_argument(
        "--idle", type=float, default=600, help="seconds until unused models are unloaded"
    )
    for name, text in {
        "streams": "requests that are answered at the same time",
        "waiting": "further requests that may wait",
        "memory": "memory in MB; 0 is half of the machine's, or the whole GPU's",
        "adapters": "adapters in memory per language model",
        "max_tokens": "tokens of an answer",
    }.items():
        option, kind = f"--{name.replace('_', '-')}", memory if name == "memory" else int
        result.add_argument(
            option, type=kind, default=getattr(default, name), help=f"maximum {text}"
        )
    return result


def memory(text: str) -> int:
    """Return the number of the option --memory. Raises ArgumentTypeError."""
    if not text.isdecimal() or 0 < int(text) < MIN_MEMORY_MB:
        raise argparse.ArgumentTypeError(
            f"{text} is not 0 or a number of MB from {MIN_MEMORY_MB} on."
        )
    return int(text)


def half_of_memory() -> int:
    """Return half of this machine's memory in MB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (2 * MB)


def limit_memory(megabytes: int | None) -> None:
    """Limit the memory of this process, so that it fails before the machine runs out. None lifts it."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = hard if megabytes is None else megabytes * MB
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

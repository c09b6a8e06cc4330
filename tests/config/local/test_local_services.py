"""Tests of the local PostgreSQL and Redis, which processes share and which end with the last one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from config.env import BASE_DIR
from config.local.processes import free_port

HOLD = """
from config.local.services import provide
provide()
import os, psycopg, time
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute("SELECT 1")
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def environment(folder: Path) -> Iterator[dict[str, str]]:
    unset = {"DATABASE_URL", "REDIS_URL", "TIEBREAK_LOCAL_SERVICES"}
    yield {k: v for k, v in os.environ.items() if k not in unset} | {
        "TIEBREAK_VAR": str(folder / "var")
    }
    wait_until(lambda: not servers(folder), "the servers outlived the test")


def hold(environment: dict[str, str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=BASE_DIR,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def servers(var_parent: Path) -> list[int]:
    """Return the ids of running servers whose command line or socket is under the folder."""
    items = []
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        line = " ".join(process.info["cmdline"] or [])
        if str(var_parent) in line and process.info["name"] != "pytest":
            items.append(process.pid)
    return items


def wait_until(condition: object, complaint: str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)


def stop(process: subprocess.Popen[str], with_signal: int = signal.SIGTERM) -> None:
    process.send_signal(with_signal)
    process.wait(10)


def test_processes_share_the_servers_which_end_after_the_last_user(
    environment: dict[str, str], folder: Path
) -> None:
    first = hold(environment)
    services = json.loads((folder / "var/local/services.json").read_text())
    second = hold(environment)
    assert json.loads((folder / "var/local/services.json").read_text()) == services
    stop(first)
    time.sleep(1.5)
    assert servers(folder), "the servers left while somebody used them"
    stop(second)
    wait_until(lambda: not servers(folder), "the servers stayed after the last user")


def test_a_crash_leaves_nothing_running_or_locked(
    environment: dict[str, str], folder: Path
) -> None:
    stop(hold(environment), signal.SIGKILL)
    wait_until(lambda: not servers(folder), "the servers outlived the crash")
    stop(hold(environment))


def test_a_new_keeper_takes_over_from_a_killed_one(
    environment: dict[str, str], folder: Path
) -> None:
    first = hold(environment)
    keeper = json.loads((folder / "var/local/services.json").read_text())["pid"]
    os.kill(keeper, signal.SIGKILL)
    second = hold(environment)
    assert json.loads((folder / "var/local/services.json").read_text())["pid"] != keeper
    stop(first)
    stop(second)


def test_the_next_free_port_is_used() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port

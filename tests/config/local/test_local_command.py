"""Tests of `manage.py local` in a terminal."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from django.core.management import CommandError, call_command

from config.env import BASE_DIR


def ignore_interrupts() -> None:
    """Ignore SIGINT, as a shell without job control does for background jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Local:
    """A running `manage.py local` with its own var/ folder."""

    def __init__(self, var: Path, *arguments: str):
        unset = {"DATABASE_URL", "REDIS_URL", "TIEBREAK_LOCAL_SERVICES"}
        environment = {k: v for k, v in os.environ.items() if k not in unset}
        self.errors = var.with_name("errors")
        self.environment = environment | {"TIEBREAK_VAR": str(var), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "local", *arguments],
            cwd=BASE_DIR,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=self.errors.open("w"),
            text=True,
            preexec_fn=ignore_interrupts,
        )
        self.said = ""
        self.site = self.wait_for(r"(http://\S+)")

    def wait_for(self, pattern: str) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line
            if result := re.search(pattern, line):
                return result.group(1)
        raise AssertionError(f"it ended without saying {pattern}: {self.said}")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, with_signal: int) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(30)


@pytest.fixture
def var(folder: Path) -> Iterator[Path]:
    yield folder / "var"
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(process.info["cmdline"] or [])
    ]
    _, alive = psutil.wait_procs(left, timeout=15)
    for process in alive:
        process.kill()
    assert not alive


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=15)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_local_serves_on_a_free_port_in_little_memory_and_stops_on_ctrl_c(
    var: Path,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        local = Local(var, "--port", str(port))
        assert f"Port {port} is taken" in local.said
        assert local.site != f"http://127.0.0.1:{port}/"
        with urlopen(f"{local.site}health/") as answer:
            assert answer.read() == b"ok"
        with urlopen(f"{local.site}login/") as answer:
            assert answer.status == 200
        family = local.family()
        servers = [p for p in family if "gunicorn" in " ".join(p.cmdline())]
        assert max(p.memory_info().rss for p in servers) < 200e6
        assert len(family) >= 6, "a web server, a worker and a scheduler, each below its watchdog"
        for command in ("local", "demo"):
            second = subprocess.run(
                [sys.executable, "manage.py", command],
                cwd=BASE_DIR, env=local.environment, capture_output=True, text=True,
            )  # fmt: skip
            assert (second.returncode, second.stdout) == (1, "")
            where = f"running on {var}: process {local.process.pid}, {local.site}."
            assert where in second.stderr, second.stderr
            assert "set TIEBREAK_VAR to another folder" in second.stderr
        assert local.end(signal.SIGINT) == 0
        assert gone(family)
        assert "SecurityWarning" not in local.errors.read_text(), "as root, Celery warns of pickles"


def test_local_restarts_the_web_server_and_leaves_nothing_after_kill_9(var: Path) -> None:
    local = Local(var)
    web = next(p for p in local.family() if "gunicorn" in " ".join(p.cmdline()))
    time.sleep(2)
    web.kill()
    deadline = time.monotonic() + 20
    while True:
        try:
            with urlopen(f"{local.site}health/") as answer:
                assert answer.read() == b"ok"
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    family = local.family()
    local.end(signal.SIGKILL)
    assert gone(family)


@pytest.mark.parametrize("command", ["local", "demo"])
@pytest.mark.parametrize("port", [0, 65536])
def test_an_invalid_port_is_refused_with_a_sentence(command: str, port: int, db: None) -> None:
    with pytest.raises(CommandError, match="A port is a number from 1 to 65535"):
        call_command(command, port=port)


def test_a_demo_with_too_few_letters_is_refused_before_anything_starts(db: None) -> None:
    with pytest.raises(CommandError, match=r"needs at least 20 letters.*got 19"):
        call_command("demo", prompts=19)

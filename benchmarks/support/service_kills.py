"""Kills and suspensions of PostgreSQL, Redis and beat, while reviewers submit over HTTP.

Each round sends SIGKILL to the main process of a server under `manage.py local`, or SIGSTOP and
later SIGCONT to all its processes. Reviewers resend unanswered rankings, as the page does. The
benchmark measures the time from the server's return to the next page. Every ranking that was
answered with 200 must then be in the database exactly once.
"""

import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

from benchmarks.support.databases import SECRET_KEY, environment, say
from benchmarks.support.web import Browser
from benchmarks.support.web_kills import GONE, Reviewer, check, sessions_of
from config.env import BASE_DIR

PARTS = ("postgres", "valkey", "beat")
FAULTS = [(part, fault) for part in PARTS for fault in ("kill", "stop")]
LATEST_PAGE_SECONDS = 3.0
LATEST_RETURN_SECONDS = 60.0


class Site:
    """A running `manage.py local` with its own data folder."""

    def __init__(self, var: Path):
        unset = {"DATABASE_URL", "REDIS_URL", "TIEBREAK_LOCAL_SERVICES"}
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        own = {"TIEBREAK_VAR": str(var), "TIEBREAK_SECRET_KEY": SECRET_KEY, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "local"],
            cwd=BASE_DIR, env={**inherited, **own},
            stdout=subprocess.PIPE, stderr=(var.parent / "log").open("w"), text=True,
        )  # fmt: skip
        assert self.process.stdout
        addresses = (re.search(r"http://127\.0\.0\.1:(\d+)/", line) for line in self.process.stdout)
        self.port = int(next(match for match in addresses if match)[1])
        services = json.loads((var / "local/services.json").read_text())
        self.database_url, self.redis_url = services["database_url"], services["redis_url"]
        self.keeper = psutil.Process(services["pid"])

    def processes(self, part: str) -> list[psutil.Process]:
        """Return the processes of a part, the main one first."""
        if part == "beat":
            family = psutil.Process(self.process.pid).children(recursive=True)
            return [process for process in family if is_beat(process)]
        return [p for p in self.keeper.children(recursive=True) if part in p.name()]

    def answers(self, part: str) -> bool:
        try:
            if part == "postgres":
                psycopg.connect(self.database_url, connect_timeout=2).close()
            elif part == "valkey":
                path = self.redis_url.removeprefix("redis+socket://")
                redis.Redis(unix_socket_path=path, socket_timeout=1).ping()
            return bool(self.processes(part))
        except (psycopg.OperationalError, redis.RedisError, psutil.Error):
            return False

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        psutil.wait_procs([self.keeper], timeout=30)


def is_beat(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        line = process.cmdline()
        return "beat" in line and "celery" in line and "runs.supervision.watchdog" not in line
    return False


@contextmanager
def running_site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="tb-"))
    folder.chmod(0o711)  # as root, PostgreSQL runs as another account
    site = Site(folder / "var")
    try:
        yield site
    finally:
        site.stop()
        shutil.rmtree(folder)


def faults_under_load(count: int, *, tasks: int = 1500, seed: int = 0) -> dict[str, Any]:
    """Return a case for the hammer: faults, acknowledged rankings and broken rules."""
    began = time.perf_counter()
    dice = random.Random(seed)
    plan = [fault for n in range(0, count, len(FAULTS)) for fault in dice.sample(FAULTS, 6)][:count]
    with running_site() as site:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.support.web_kills", str(max(tasks, 100 * count))],
            cwd=BASE_DIR, env=environment(site.database_url), check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        sessions = sessions_of(site.database_url)
        reviewers = [Reviewer(Browser(site.port, session, "bench")) for session in sessions]
        visitor = Browser(site.port, sessions[0], "bench")
        pauses = [_round(site, reviewers, visitor, fault, dice) for fault in plan]
        for reviewer in reviewers:
            reviewer.finish()
        case = {
            "case": "servers killed and stopped under load",
            "faults": dict(Counter(f"{part} {fault}" for part, fault in plan)),
            "acknowledged": sum(len(reviewer.acknowledged) for reviewer in reviewers),
            "sent_again": sum(reviewer.sent_again for reviewer in reviewers),
            "slowest_page_after_return_s": round(max(pauses), 2),
            "slowest_page_by_fault_s": _slowest(plan, pauses),
            "seconds": round(time.perf_counter() - began, 1),
            "broken": {
                **check(site.database_url, reviewers),
                "pages_late": sum(pause > LATEST_PAGE_SECONDS for pause in pauses),
            },
        }
    say(f"faults: {case}")
    return case


def _slowest(plan: list[tuple[str, str]], pauses: list[float]) -> dict[str, float]:
    """Return the longest pause, in seconds, of each kind of fault."""
    kinds = sorted(set(plan))
    return {
        f"{part} {fault}": round(
            max(p for kind, p in zip(plan, pauses, strict=True) if kind == (part, fault)), 2
        )
        for part, fault in kinds
    }


def _round(
    site: Site,
    reviewers: list[Reviewer],
    visitor: Browser,
    fault: tuple[str, str],
    dice: random.Random,
) -> float:
    """Cause a fault while reviewers work, and return the seconds from its end to the next page."""
    stop = threading.Event()
    threads = [threading.Thread(target=reviewer.work, args=(stop,)) for reviewer in reviewers]
    for thread in threads:
        thread.start()
    time.sleep(dice.uniform(0.2, 1.2))
    try:
        _do(site, *fault, seconds=dice.uniform(0.5, 4.0))
        _wait(lambda: site.answers(fault[0]), f"{fault[0]} did not come back")
        returned = time.perf_counter()
        _wait(lambda: _page(visitor), f"no page after a {fault[1]} of {fault[0]}")
        return time.perf_counter() - returned
    finally:
        time.sleep(dice.uniform(0.5, 1.0))
        stop.set()
        for thread in threads:
            thread.join(timeout=60)


def _do(site: Site, part: str, fault: str, seconds: float) -> None:
    processes = site.processes(part)
    if fault == "kill":
        processes[0].kill()
        psutil.wait_procs(processes[:1], timeout=10)
        return
    for process in processes:
        process.suspend()
    time.sleep(seconds)
    for process in processes:
        process.resume()


def _page(visitor: Browser) -> bool:
    try:
        return visitor.request("GET", "/p/bench/review/")[0] == 200
    except (*GONE, http.client.HTTPException):
        return False


def _wait(condition: Any, complaint: str) -> None:
    deadline = time.monotonic() + LATEST_RETURN_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(complaint)
        time.sleep(0.05)

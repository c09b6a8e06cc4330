"""Tests of `manage.py local` whose processes are killed or suspended.

All tests of this file share one site and run in order. Each leaves the site running.
"""

import http.client
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest

from tests.config.local.test_local_command import Local
from tests.config.local.test_local_services import wait_until
from tests.services import folder as folder_fixture

BOUND_SECONDS = 8
"""Seconds. The product's limits are two to three; the rest allows for a busy machine."""


class Site(Local):
    """A running site, the processes behind it, and a client that gives up after BOUND_SECONDS."""

    def __init__(self, var: Path):
        super().__init__(var)
        services = json.loads((var / "local/services.json").read_text())
        self.database_url = services["database_url"]
        self.keeper = psutil.Process(services["pid"])
        self.log = var / "local/keeper.log"

    def get(self, path: str, accept: str = "text/html") -> tuple[int, str]:
        """Return status and text of a request with a session. Raises TimeoutError."""
        address = urlsplit(self.site)
        connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=BOUND_SECONDS
        )
        try:
            headers = {"Accept": accept, "Cookie": f"sessionid={'a' * 32}"}
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def works(self) -> bool:
        try:
            return self.get("/")[0] == 302 and self.get("/health/") == (200, "ok")
        except OSError:
            return False

    def servers(self, name: str) -> list[psutil.Process]:
        """Return the keeper's processes of this name, the main one first."""
        items = []
        for process in self.keeper.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # backends end with their connections
                if name in process.name():
                    items.append(process)
        return items

    def part(self, *words: str) -> psutil.Process | None:
        """Return the process of `manage.py local`, below its watchdog, with these words in its command."""
        for process in self.family():
            with suppress(psutil.Error):  # it may have ended
                line = process.cmdline()
                if "runs.supervision.watchdog" not in line and all(
                    word in " ".join(line) for word in words
                ):
                    return process
        return None


PARTS = {
    "web": ["gunicorn"],
    "worker": [" worker "],
    "beat": [" beat "],
    "model server": ["finetune.training.serve"],
}


def zombies(site: Site) -> list[psutil.Process]:
    """Return zombies among the children of `manage.py local`."""
    ended = []
    for process in site.family():
        with suppress(psutil.Error):  # it may have ended
            if process.status() == psutil.STATUS_ZOMBIE:
                ended.append(process)
    return ended


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    result = folder_fixture.__wrapped__()  # type: ignore[attr-defined]
    site = Site(next(result) / "var")
    yield site
    for process in site.servers(""):
        with suppress(psutil.NoSuchProcess):
            process.resume()
    assert site.end(signal.SIGINT) == 0
    psutil.wait_procs([site.keeper], timeout=20)
    next(result, None)


@pytest.fixture
def stopped(site: Site) -> Iterator[Callable[[str], None]]:
    """Suspend all processes of a server with SIGSTOP until the end of the test."""
    suspended: list[psutil.Process] = []

    def stop(name: str) -> None:
        suspended.extend(site.servers(name))
        for process in suspended:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    yield stop
    for process in suspended:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    wait_until(site.works, "the site did not recover", 20)


def at_once(count: int, call: Callable[[], object]) -> list[object]:
    """Return the results or exceptions of `count` concurrent calls."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_hanging_database_delays_each_request_briefly_and_gives_503(
    site: Site, stopped: Callable[[str], None]
) -> None:
    wait_until(site.works, "the first page did not come", 30)
    stopped("postgres")
    answers = at_once(8, lambda: site.get("/"))  # twice the number of web threads
    assert all(isinstance(answer, tuple) and answer[0] == 503 for answer in answers), answers
    assert site.get("/health/") == (503, "The database does not answer. Try again in a moment.")
    status, page = site.get("/")
    assert status == 503 and "<h1>Temporarily unavailable</h1>" in page
    status, problem = site.get("/api/v1/openapi.json", accept="*/*")
    assert status == 200 or json.loads(problem)["status"] == 503


def test_a_statement_is_cancelled_when_the_database_hangs_during_it(
    site: Site, stopped: Callable[[str], None]
) -> None:
    with psycopg.connect(site.database_url) as lock:
        lock.execute("LOCK TABLE django_session")
        answers: list[object] = []
        visitor = threading.Thread(target=lambda: answers.append(site.get("/")[0]))
        visitor.start()
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: _one(site, query) > 0, "no request waited for the lock")
        stopped("postgres")
        visitor.join()
        assert answers == [503]
        for process in site.servers("postgres"):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _one(site: Site, query: str) -> int:
    with psycopg.connect(site.database_url) as connection:
        row = connection.execute(query).fetchone()
    return row[0] if row else 0


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_pages_recover_after_a_server_is_killed(site: Site, name: str) -> None:
    other = "valkey" if name == "postgres" else "postgres"
    untouched = site.servers(other)[0].pid
    at_once(8, lambda: site.get("/"))  # open several connections
    before = site.servers(name)[0]
    before.kill()
    wait_until(lambda: any(p.pid != before.pid for p in site.servers(name)), "it is not back")
    wait_until(site.works, "the pages did not come back")
    assert site.servers(other)[0].pid == untouched


@pytest.mark.parametrize("name", PARTS)
def test_only_a_killed_process_is_restarted(site: Site, name: str) -> None:
    before = {part: site.part(*words) for part, words in PARTS.items()}
    assert all(before.values())
    victim = before.pop(name)
    assert victim
    others = {process.pid for process in site.family()}
    victim.kill()

    def back() -> bool:
        process = site.part(*PARTS[name])
        return process is not None and process.pid not in others

    wait_until(back, f"{name} is not back")
    wait_until(site.works, "the pages did not come back")
    assert all(process and process.is_running() for process in before.values())
    wait_until(lambda: not zombies(site), "zombies are left")


def test_a_killed_keeper_is_restarted_with_its_servers(site: Site) -> None:
    servers = site.servers("")
    os.kill(site.keeper.pid, signal.SIGKILL)
    psutil.wait_procs(servers, timeout=15)
    services = site.log.parent / "services.json"

    def keeper() -> int:
        try:
            return int(json.loads(services.read_text())["pid"])
        except (OSError, ValueError):
            return site.keeper.pid

    wait_until(lambda: keeper() != site.keeper.pid, "there is no new keeper", 30)
    site.keeper = psutil.Process(keeper())
    wait_until(site.works, "the pages did not come back", 20)


def test_an_outage_leaves_one_line_in_the_log_and_no_traceback(site: Site) -> None:
    text = site.errors.read_text()
    assert "The database does not answer: " in text and "The database answers again." in text
    assert "Traceback" not in text, text[text.index("Traceback") - 500 :][:3000]
    assert "PostgreSQL ended (SIGKILL); starting it again." in text
    assert "beat ended (SIGKILL); starting it again." in text

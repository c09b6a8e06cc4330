"""Response times for legitimate users during attacks.

    python -m benchmarks.web_attacks            each case three times for 10 seconds, a few minutes
    python -m benchmarks.web_attacks --quick    once for 4 seconds

The server runs as `manage.py local` starts it (one process, four threads), on loopback, with its own
database. Turns with and without an attack alternate, so that other load on the machine affects both.
The attackers run in a separate process, which ends with the turn. Expected limits:

    guessing     16 clients try passwords without pause: the page's median grows by 20 % at most
    half_sent    50 requests that are never completed: every page is answered
    slow_readers 50 clients request a large file and read nothing: every page is answered
    one_token    one token sends as much as allowed on 4 connections: another token's 95th
                 percentile stays under a second

The legitimate user requests a page (or a score), pauses for 0.05 s, and repeats.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.support.databases import commit, databases, hardware, p, say, use
from config.local.services import provide

READING = 0.05
CLIENTS = {"guessing": 16, "half_sent": 50, "slow_readers": 50, "one_token": 4}
TEXT = "You could turn it off and on again. "


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    provide()
    with databases(["attacks"]) as urls, ExitStack() as stack:
        url = urls["attacks"]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["TIEBREAK_MODEL_SERVER"] = f"unix:{folder}/s.sock"
        os.environ["TIEBREAK_API_RESPONSES_A_MINUTE"] = "10000000"
        use(url)
        world = load(folder)
        from benchmarks.support.web import WebServer

        server = WebServer(url, workers=1, threads=4)
        stack.callback(server.stop)
        cases = [page_case(name, server.port, world, options) for name in list(CLIENTS)[:3]]
        if not options.no_model_server:
            model_server = start_model_server(folder)
            stack.callback(model_server.wait)
            stack.callback(model_server.terminate)
            cases.append(token_case(server.port, world, options))
        result = {
            "name": "web_attacks", "commit": commit(), "hardware": hardware(),
            "server": {"workers": 1, "threads": 4}, "turns": options.turns,
            "turn_seconds": options.seconds, "cases": cases,
        }  # fmt: skip
        from django.db import connections

        connections.close_all()
    print(json.dumps(result))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--quick", action="store_true", help="one turn of 4 seconds")
    parser.add_argument("--no-model-server", action="store_true", help="skip the case one_token")
    options = parser.parse_args(argv)
    if options.quick:
        options.turns, options.seconds = 1, 4
    return options


def load(folder: Path) -> dict[str, str]:
    """Load a project, accounts and a reward model; return the clients' session, slug and tokens."""
    from django.core.management import call_command

    from accounts.models import Role, Token, User
    from benchmarks.support.load import SLUG
    from benchmarks.support.load import load as fill
    from benchmarks.support.web import sign_in
    from labeling.models import Project
    from reward.models import RewardModel
    from tests.finetune.factory import make_snapshot
    from tests.reward.scored import make_scorer_folder

    call_command("migrate", verbosity=0)
    fill(1000, 4)
    project = Project.objects.get(slug=SLUG)
    RewardModel.objects.create(
        project=project, name="bench", base="tiny", path=str(make_scorer_folder(folder / "model")),
        snapshot=make_snapshot(project, prompts=1), state=RewardModel.State.PROMOTED,
        report={}, run=_run(),
    )  # fmt: skip
    reviewer = User.objects.get(username="reviewer-0")
    trainer = User.objects.create(username="trainer", role=Role.TRAINER, all_projects=True)
    greedy, modest = (Token.issue(user=trainer, name=name)[1] for name in ("greedy", "modest"))
    return {"session": sign_in(reviewer), "slug": SLUG, "greedy": greedy, "modest": modest}


def _run() -> Any:
    from tests.finetune.factory import make_run

    return make_run("reward")


def start_model_server(folder: Path) -> Any:
    import subprocess

    command = [sys.executable, "-m", "finetune.training.serve", f"unix:{folder}/s.sock"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


# --- measuring ------------------------------------------------------------------------------------


def page_case(
    name: str, port: int, world: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    def ask(connection: http.client.HTTPConnection) -> int:
        path = f"/p/{world['slug']}/review/"
        connection.request("GET", path, headers={"Cookie": f"sessionid={world['session']}"})
        reply = connection.getresponse()
        reply.read()
        return reply.status

    return case(name, port, ask, options, attack=ATTACKS[name], argument="")


def token_case(port: int, world: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    def ask(connection: http.client.HTTPConnection) -> int:
        return score(connection, world["modest"], [TEXT])

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    deadline = time.monotonic() + 120
    while ask(connection) != 200 and time.monotonic() < deadline:
        time.sleep(1)
    return case("one_token", port, ask, options, attack=starve, argument=world["greedy"])


def case(
    name: str,
    port: int,
    ask: Callable[[http.client.HTTPConnection], int],
    options: argparse.Namespace,
    *,
    attack: Any,
    argument: str,
) -> dict[str, Any]:
    clients = CLIENTS[name]
    quiet: list[float] = []
    attacked: list[float] = []
    statuses: Counter[str] = Counter()
    done: Counter[str] = Counter()
    turn(port, ask, 1)
    for number in range(options.turns):
        times, answers = turn(port, ask, options.seconds)
        quiet += times
        with Attackers(attack, port, clients, argument, done):
            time.sleep(0.5)
            times, answers = turn(port, ask, options.seconds)
        attacked += times
        statuses.update(answers)
        say(f"{name}, turn {number}: {1000 * statistics.median(times):.1f} ms, {dict(answers)}")
    median = statistics.median(attacked) / statistics.median(quiet)
    return {
        "case": name, "clients": clients, "answered": dict(statuses), "attackers": dict(done),
        "quiet_p50_ms": ms(quiet, 50), "quiet_p95_ms": ms(quiet, 95),
        "attacked_p50_ms": ms(attacked, 50), "attacked_p95_ms": ms(attacked, 95),
        "p50_ratio": round(median, 2),
    }  # fmt: skip


def ms(seconds: list[float], percent: int) -> float:
    return round(1000 * p(seconds, percent), 1)


def turn(
    port: int, ask: Callable[[http.client.HTTPConnection], int], seconds: float
) -> tuple[list[float], Counter[str]]:
    """Return the seconds of each response, and the number of responses by status."""
    times: list[float] = []
    answers: Counter[str] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        try:
            answers[str(ask(connection))] += 1
        except (OSError, http.client.HTTPException) as error:
            answers[type(error).__name__] += 1
            connection.close()
        times.append(time.perf_counter() - began)
        time.sleep(READING)
    connection.close()
    return times, answers


# --- the attackers, in a separate process ---------------------------------------------------------


class Attackers:
    """A context manager that runs attacking clients of one kind, a thread each."""

    def __init__(self, attack: Any, port: int, clients: int, argument: str, done: Counter[str]):
        spawn = multiprocessing.get_context("spawn")
        self.stop, self.counts, self.done = spawn.Event(), spawn.SimpleQueue(), done
        self.process = spawn.Process(
            target=crew, args=(attack, port, clients, argument, self.stop, self.counts)
        )

    def __enter__(self) -> None:
        self.process.start()

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self.done.update(self.counts.get())
        self.process.join(timeout=30)
        if self.process.is_alive():
            self.process.kill()


def crew(attack: Any, port: int, clients: int, argument: str, stop: Any, counts: Any) -> None:
    statuses: Counter[str] = Counter()

    def work(number: int) -> None:
        while not stop.is_set():
            try:
                attack(port, number, argument, stop, statuses)
            except (OSError, http.client.HTTPException) as error:
                statuses[type(error).__name__] += 1
                time.sleep(0.1)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(clients)]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join(timeout=1)
    counts.put(statuses)


FORM_TOKEN = re.compile(rb'name="csrfmiddlewaretoken" value="([^"]+)"')


def guess(port: int, number: int, argument: str, stop: Any, statuses: Counter[str]) -> None:
    """Guess passwords of several accounts on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/login/")
    reply = connection.getresponse()
    match = FORM_TOKEN.search(reply.read())
    cookie = (reply.headers.get("Set-Cookie") or "").split(";")[0]
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    token = match[1].decode() if match else ""
    for attempt in range(1_000_000):
        if stop.is_set():
            break
        form = {
            "csrfmiddlewaretoken": token, "username": f"reviewer-{attempt % 4}",
            "password": f"guess {number} {attempt}",
        }  # fmt: skip
        connection.request("POST", "/login/", urlencode(form), headers)
        reply = connection.getresponse()
        reply.read()
        statuses[str(reply.status)] += 1
    connection.close()


def send_half(port: int, number: int, argument: str, stop: Any, statuses: Counter[str]) -> None:
    """Send half a header or half a body, and wait until the server gives up."""
    half = (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Half:",
        b"POST /login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nusername=",
    )
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(half[number % 2])
        statuses["sent"] += 1
        connection.settimeout(0.5)
        while not stop.is_set():
            with suppress(TimeoutError):
                if not connection.recv(100):
                    statuses["closed by the server"] += 1
                    return


def read_slowly(port: int, number: int, argument: str, stop: Any, statuses: Counter[str]) -> None:
    """Request a large page repeatedly on one connection, and read nothing."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(5)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /i18n.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        statuses["sent"] += 50
        stop.wait()


def starve(port: int, number: int, argument: str, stop: Any, statuses: Counter[str]) -> None:
    """Send requests just above and just below the size limit without pause."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not stop.is_set():
        for texts in ([TEXT * 65_000], [TEXT * 13_000], [TEXT * 40] * 200):
            statuses[str(score(connection, argument, texts))] += 1


def score(connection: http.client.HTTPConnection, key: str, texts: list[str]) -> int:
    conversations = [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}
        for text in texts
    ]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/score", json.dumps(conversations), headers)
    reply = connection.getresponse()
    reply.read()
    return reply.status


ATTACKS = {"guessing": guess, "half_sent": send_half, "slow_readers": read_slowly}

if __name__ == "__main__":
    sys.exit(main())

"""Rankings per second over HTTP: `python -m benchmarks.queue --http`.

Each size has a database, a gunicorn (2 workers with 4 threads) and a process with 32 reviewers, who
act as the page does: they submit a sheet, show the prefetched one, and receive the one after it
with the response. Turns alternate between the sizes. Claims are measured by fetching the next sheet
alone. The server, PostgreSQL and the load share one machine.
"""

import argparse
import json
import os
import sys
import threading
import time
from typing import Any

from benchmarks.support.databases import commit, databases, hardware, p, say, use
from benchmarks.support.queue_processes import Child, check
from benchmarks.support.web import WebServer
from config.local.services import provide

CLAIM_EACH = 10
"""One of this many requests fetches a sheet alone."""


def main(options: argparse.Namespace) -> int:
    provide()
    with databases(sorted(set(options.tasks))) as urls:
        loaded = {tasks: fill(url, tasks, options) for tasks, url in urls.items()}
        cases = measure(urls, loaded, options)
    rates = {case["tasks"]: case["rankings_per_s"] for case in cases}
    result = {
        "name": "queue", "mode": "http", "commit": commit(), "hardware": hardware(),
        "overlap": 3, "responses": 4, "turns": options.turns, "turn_seconds": options.seconds,
        "gunicorn": {"workers": options.workers, "threads": options.threads},
        "rankings_per_s_ratio": round(rates[max(rates)] / (rates[min(rates)] or 1), 3),
        "cases": cases,
    }  # fmt: skip
    print(json.dumps(result))
    return 1 if any(case["given_twice"] for case in cases) else 0


def fill(url: str, tasks: int, options: argparse.Namespace) -> dict[str, int]:
    began = time.perf_counter()
    people = ["--reviewers", str(options.reviewers)]
    counted = Child("http-load", url, ["--http", "--tasks", str(tasks), *people]).wait()
    say(f"{counted} in {time.perf_counter() - began:.0f} s")
    return counted


def measure(
    urls: dict[int, str], loaded: dict[int, dict[str, int]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    servers: dict[int, WebServer] = {}
    crews: dict[int, Child] = {}
    turns: dict[int, list[dict[str, Any]]] = {tasks: [] for tasks in urls}
    people = ["--http", "--reviewers", str(options.reviewers)]
    try:
        for tasks, url in urls.items():
            server = WebServer(url, workers=options.workers, threads=options.threads)
            servers[tasks] = server
            crews[tasks] = Child("http-drive", url, [*people, "--port", str(server.port)])
        for turn in range(options.turns + 1):
            for tasks, crew in crews.items():
                crew.send(str(options.seconds))
                times = crew.receive()
                rate = len(times["submits"]) / times["seconds"]
                say(f"turn {turn}, {tasks:,} tasks: {rate:.0f} rankings/s, {times['trouble']}")
                if turn:
                    turns[tasks].append(times)
    finally:
        for crew in crews.values():
            crew.pipe("stdin").close()
            crew.process.wait(timeout=60)
        for server in servers.values():
            server.stop()
    return [
        {
            **loaded[tasks],
            **figures(turns[tasks], options),
            "trouble": [words for turn in turns[tasks] for words in turn["trouble"]],
            **check(url),
        }
        for tasks, url in urls.items()
    ]


def figures(turns: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    claims = [ms for turn in turns for ms in turn["claims"]]
    submits = [ms for turn in turns for ms in turn["submits"]]
    return {
        "reviewers": options.reviewers,
        "rankings": len(submits),
        "rankings_per_s": round(len(submits) / sum(turn["seconds"] for turn in turns), 1),
        "claim_p50_ms": round(p(claims, 50), 2),
        "claim_p95_ms": round(p(claims, 95), 2),
        "submit_p50_ms": round(p(submits, 50), 2),
        "submit_p95_ms": round(p(submits, 95), 2),
    }


# --- in the children ------------------------------------------------------------------------------


def load(options: argparse.Namespace) -> int:
    use(os.environ["DATABASE_URL"])
    from django.core.management import call_command

    from benchmarks.support.load import load as fill_database

    call_command("migrate", verbosity=0)
    [tasks] = options.tasks
    print(json.dumps(fill_database(tasks, options.reviewers)))
    return 0


def drive(options: argparse.Namespace) -> int:
    """Read the seconds of each turn, and print its times."""
    use(os.environ["DATABASE_URL"])
    from django.db import connection

    from accounts.models import User
    from benchmarks.support.load import SLUG
    from benchmarks.support.web import Browser, sign_in

    names = [f"reviewer-{number}" for number in range(options.reviewers)]
    people = User.objects.filter(username__in=names).order_by("id")
    browsers = [Browser(options.port, sign_in(user), SLUG) for user in people]
    connection.close()
    for line in sys.stdin:
        print(json.dumps(turn(browsers, float(line))), flush=True)
    return 0


def turn(browsers: list[Any], seconds: float) -> dict[str, Any]:
    """Open the page in all browsers and prefetch the next sheet, then measure a turn."""
    results: list[dict[str, Any]] = [{"claims": [], "submits": [], "trouble": []} for _ in browsers]
    ready = threading.Barrier(len(browsers) + 1)
    until = [0.0]
    threads = [
        threading.Thread(target=work, args=(browser, ready, until, result))
        for browser, result in zip(browsers, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    until[0] = time.perf_counter() + 3600
    ready.wait()
    began = time.perf_counter()
    until[0] = began + seconds
    for thread in threads:
        thread.join()
    return {
        "claims": [ms for result in results for ms in result["claims"]],
        "submits": [ms for result in results for ms in result["submits"]],
        "trouble": [words for result in results for words in result["trouble"]],
        "seconds": time.perf_counter() - began,
    }


def work(
    browser: Any, ready: threading.Barrier, until: list[float], result: dict[str, Any]
) -> None:
    try:
        browser.open()
        browser.prepare()
    except Exception as error:
        result["trouble"].append(repr(error)[:200])
    ready.wait()
    for number in range(sys.maxsize):
        if time.perf_counter() >= until[0] or browser.form is None or result["trouble"]:
            break
        try:
            start = time.perf_counter()
            if number % CLAIM_EACH == CLAIM_EACH - 1:
                browser.prepare()
                result["claims"].append((time.perf_counter() - start) * 1000)
            else:
                browser.submit()
                result["submits"].append((time.perf_counter() - start) * 1000)
        except Exception as error:
            result["trouble"].append(repr(error)[:200])
    browser.close()


ROLES = {"http-load": load, "http-drive": drive}

"""Latency of reviewers' pages while models answer chats.

The web server, the live server and the model server run as `manage.py local` starts them, with a tiny
model. Reviewers open the page, claim and submit, with pauses. In every second turn, chats stream their
answers at the same time, each over a WebSocket of its own. Turns alternate, so that other load on the
machine affects both kinds. An answer that ends is asked for again.

    python -m benchmarks.chat_streams            50 streams, 4 reviewers, 2 minutes
    python -m benchmarks.chat_streams --quick    the same in about 40 seconds

The clients of the streams have a low priority, because they would run on other machines. Progress on
stderr; the last line of stdout is one JSON object. The exit status is 1 if a page is more than 20%
slower with streams.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.support.databases import commit, databases, hardware, p, say, use
from benchmarks.support.queue_processes import Child
from config.local.services import provide

TASKS = 5000
MOST_SLOWER = 1.2
REQUESTS = ("page", "claim", "submit")
START_SECONDS = 120
NICENESS = 10


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.role:
        return ROLES[options.role](options)
    provide()
    with databases(["streams"]) as urls, TemporaryDirectory(prefix="tiebreak-") as folder:
        url = urls["streams"]
        people = ["--reviewers", str(options.reviewers)]
        load = Child("http-load", url, ["--tasks", str(TASKS), *people])
        say(f"loaded {load.wait()}")
        os.environ["TIEBREAK_VAR"] = folder
        os.environ["TIEBREAK_MODEL_SERVER"] = f"unix:{folder}/models.sock"
        use(url)
        add_chats(Path(folder), options.streams)
        with services() as (port, live_port):
            turns = measure(url, port, live_port, options)
        slower = slowdowns(turns)
        result = {
            "name": "chat_streams", "commit": commit(), "hardware": hardware(),
            "turns": options.turns, "turn_seconds": options.seconds,
            "reviewers": options.reviewers, "pause_seconds": options.pause,
            "slowdown": slower, "cases": [case(name, turns[name], options) for name in turns],
        }  # fmt: skip
    print(json.dumps(result))
    return 1 if any(each["p50"] > MOST_SLOWER for each in slower.values()) else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns")
    parser.add_argument("--streams", type=int, default=50, help="chats (default 50)")
    parser.add_argument("--reviewers", type=int, default=4, help="(default 4)")
    parser.add_argument(
        "--pause", type=float, default=0.2, help="seconds between two requests (default 0.2)"
    )
    parser.add_argument("--turns", type=int, help="turns of each kind (default 8; quick 3)")
    parser.add_argument("--seconds", type=float, help="seconds per turn (default 5; quick 2)")
    parser.add_argument("--role", choices=sorted(ROLES), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.turns = options.turns or (3 if options.quick else 8)
    options.seconds = options.seconds or (2.0 if options.quick else 5.0)
    return options


# --- the servers ----------------------------------------------------------------------------------


def add_chats(folder: Path, count: int) -> None:
    """Create a tiny model and the chats of a lead with it."""
    from accounts.models import User
    from finetune.chat.conversations import start
    from finetune.models import Model
    from labeling.models import Project
    from tests.tiny import make_model

    base = make_model(folder / "tiny", max_position_embeddings=4096)
    model = Model.objects.create(project=Project.objects.get(), name="tiny", base=str(base))
    lead = User.objects.get(username="lead")
    for _ in range(count):
        start(user=lead, models=[model], temperature=1.0, top_p=1.0, max_tokens=1000)


@contextmanager
def services() -> Iterator[tuple[int, int]]:
    """Run the servers, and yield the ports of the web server and of the live server."""
    from config.local.processes import (
        Services,
        free_port,
        live,
        model_server,
        wait_for_web,
        web,
    )

    port = free_port(18000)
    live_port = free_port(port + 1)
    with Services([web(port, live_port), live(live_port), model_server()]):
        wait_for_web(port, seconds=60)
        wait_for_web(live_port, seconds=60)
        yield port, live_port


# --- measuring ------------------------------------------------------------------------------------


def measure(
    url: str, port: int, live_port: int, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Return the times of all turns, without streams and with them. The first turn warms up."""
    module = "benchmarks.chat_streams"
    people = ["--reviewers", str(options.reviewers), "--pause", str(options.pause)]
    reviewers = Child("review", url, [*people, "--port", str(port)], module)
    chats = Child("chat", url, ["--port", str(live_port)], module)
    turns: dict[str, list[dict[str, Any]]] = {"alone": [], "streams": []}
    try:
        for turn in range(options.turns + 1):
            for name, times in turns.items():
                if name == "streams":
                    chats.send("start")
                    chats.receive()
                reviewers.send(str(options.seconds))
                result = reviewers.receive()
                if name == "streams":
                    chats.send("stop")
                    result |= chats.receive()
                say(f"turn {turn}, {name}: {summary(result)}")
                if turn:
                    times.append(result)
    finally:
        for child in (reviewers, chats):
            child.pipe("stdin").close()
            child.process.wait(timeout=60)
    return turns


def summary(times: dict[str, Any]) -> str:
    medians = ", ".join(f"{name} {p(times[name], 50):.1f} ms" for name in REQUESTS)
    rate = f", {times['characters_per_s']:.0f} characters/s" if "characters_per_s" in times else ""
    return f"{medians}{rate} {times['trouble'] or ''}"


def case(name: str, turns: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    times = {request: [ms for turn in turns for ms in turn[request]] for request in REQUESTS}
    figures: dict[str, Any] = {"case": name}
    for request, values in times.items():
        figures[f"{request}s"] = len(values)
        figures |= {f"{request}_p{n}_ms": round(p(values, n), 2) for n in (50, 95)}
    if name == "streams":
        rates = [turn["characters_per_s"] for turn in turns]
        figures |= {
            "streams": options.streams,
            "characters_per_s": round(statistics.mean(rates), 1),
        }
    figures["trouble"] = [words for turn in turns for words in turn["trouble"]]
    return figures


def slowdowns(turns: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return how many times as long each request takes with streams: the median over the turns."""
    pairs = list(zip(turns["alone"], turns["streams"], strict=True))
    return {
        request: {
            f"p{n}": round(
                statistics.median(p(b[request], n) / (p(a[request], n) or 1) for a, b in pairs), 3
            )
            for n in (50, 95)
        }
        for request in REQUESTS
    }


# --- in the children ------------------------------------------------------------------------------


def review(options: argparse.Namespace) -> int:
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
        print(json.dumps(review_turn(browsers, float(line), options.pause)), flush=True)
    return 0


def review_turn(browsers: list[Any], seconds: float, pause: float) -> dict[str, Any]:
    times: dict[str, list[Any]] = {name: [] for name in (*REQUESTS, "trouble")}
    until = time.perf_counter() + seconds

    def work(browser: Any) -> None:
        while time.perf_counter() < until and not times["trouble"]:
            steps = (browser.open, browser.prepare, browser.submit)
            for name, step in zip(REQUESTS, steps, strict=True):
                time.sleep(pause)
                start = time.perf_counter()
                try:
                    step()
                except Exception as error:
                    times["trouble"].append(repr(error)[:200])
                    return
                times[name].append((time.perf_counter() - start) * 1000)

    threads = [threading.Thread(target=work, args=(browser,)) for browser in browsers]
    for number, thread in enumerate(threads):
        thread.start()
        time.sleep(pause / len(threads) if number else 0)
    for thread in threads:
        thread.join()
    for browser in browsers:
        browser.close()
    return times


def chat(options: argparse.Namespace) -> int:
    """Read `start` and `stop`. Print a line when all chats stream, and the characters per second."""
    from serving.priority import give_way

    use(os.environ["DATABASE_URL"])
    from django.db import connection

    from accounts.models import User
    from benchmarks.support.web import sign_in
    from finetune.models import Conversation

    session = sign_in(User.objects.get(username="lead"))
    chats = list(Conversation.objects.values_list("pk", flat=True))
    connection.close()
    os.setsid()
    give_way(NICENESS)
    asyncio.run(stream(chats, session, options.port))
    return 0


async def stream(chats: list[int], session: str, port: int) -> None:
    from websockets.asyncio.client import connect

    headers = {"Cookie": f"sessionid={session}"}
    sockets = [
        await connect(
            f"ws://127.0.0.1:{port}/live/chat/{pk}/",
            additional_headers=headers,
            origin=f"http://127.0.0.1:{port}",  # type: ignore[arg-type]
        )
        for pk in chats
    ]
    is_first = True
    while (await asyncio.to_thread(sys.stdin.readline)).strip() == "start":
        answers = [Answers(socket) for socket in sockets]
        request = {"do": "ask", "text": "Tell me everything."} if is_first else {"do": "again"}
        is_first = False
        reading = [asyncio.create_task(each.read(request)) for each in answers]
        await asyncio.gather(
            *(asyncio.wait_for(each.begun.wait(), START_SECONDS) for each in answers)
        )
        began, before = time.perf_counter(), sum(each.characters for each in answers)
        print(json.dumps("streaming"), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        characters = sum(each.characters for each in answers) - before
        rate = characters / (time.perf_counter() - began)
        await asyncio.gather(*(each.stop() for each in answers), *reading)
        print(json.dumps({"characters_per_s": rate}), flush=True)
    for socket in sockets:
        await socket.close()


class Answers:
    """The answers of one chat."""

    def __init__(self, socket: Any):
        self.socket = socket
        self.begun = asyncio.Event()
        self.characters = 0
        self.stopping = False

    async def read(self, request: dict[str, str]) -> None:
        await self.socket.send(json.dumps(request))
        async for message in self.socket:
            event = json.loads(message)
            if event["event"] == "piece":
                self.characters += len(event["text"])
                self.begun.set()
            elif event["event"] == "refused" or (event["event"] == "end" and event["error"]):
                raise SystemExit(event["error"])
            elif event["event"] == "done" and self.stopping:
                return
            elif event["event"] == "done":
                await self.socket.send(json.dumps({"do": "again"}))

    async def stop(self) -> None:
        self.stopping = True
        await self.socket.send(json.dumps({"do": "stop"}))


ROLES = {"review": review, "chat": chat}


if __name__ == "__main__":
    sys.exit(main())

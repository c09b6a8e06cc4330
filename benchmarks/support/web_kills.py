"""`kill -9` of the web server at random points, while reviewers submit over HTTP.

Each round kills a worker, or the master with all its workers, a few milliseconds after the start.
The server restarts, and reviewers resend unanswered rankings, as the page does. Every ranking that
was answered with 200 must then be in the database exactly once.
"""

import http.client
import random
import subprocess
import sys
import threading
import time
from typing import Any

import psycopg

from benchmarks.support.databases import databases, environment, say
from benchmarks.support.rules import broken_rules
from benchmarks.support.web import Browser, Form, WebServer
from config.env import BASE_DIR

REVIEWERS = 6
GONE = (OSError, http.client.HTTPException)


def kill_under_load(kills: int, *, tasks: int = 1500, seed: int = 0) -> dict[str, Any]:
    """Return a case for the hammer: kills, acknowledged rankings and broken rules."""
    began = time.perf_counter()
    with databases(["kills"]) as urls:
        [url] = urls.values()
        subprocess.run(
            [sys.executable, "-m", "benchmarks.support.web_kills", str(max(tasks, 40 * kills))],
            cwd=BASE_DIR, env=environment(url), check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        sessions = sessions_of(url)
        server = WebServer(url, workers=2, threads=4)
        reviewers = [Reviewer(Browser(server.port, session, "bench")) for session in sessions]
        try:
            rounds = [_round(server, reviewers, random.Random(f"{seed}-{n}")) for n in range(kills)]
            for reviewer in reviewers:
                reviewer.finish()
        finally:
            server.stop()
        case = {
            "case": "web server killed under load",
            "kills": kills,
            "masters_killed": sum(rounds),
            "acknowledged": sum(len(reviewer.acknowledged) for reviewer in reviewers),
            "sent_again": sum(reviewer.sent_again for reviewer in reviewers),
            "seconds": round(time.perf_counter() - began, 1),
            "broken": check(url, reviewers),
        }
    say(f"kills: {case}")
    return case


class Reviewer:
    """A reviewer who submits until stopped, and resends a form that was not answered."""

    def __init__(self, browser: Browser):
        self.browser = browser
        self.acknowledged: list[str] = []
        self.unanswered: Form | None = None
        self.sent_again = 0
        self.errors: list[str] = []

    def work(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                if not self.step():
                    return
            except GONE:
                time.sleep(0.05)
            except RuntimeError as error:
                self.errors.append(str(error))
                return

    def step(self) -> bool:
        """Submit one form, and return False if no task is left."""
        if self.unanswered:
            self.sent_again += 1
            self._send(self.unanswered)
        elif self.browser.form is None and not self.browser.open():
            return False
        elif form := self.browser.form:
            self.unanswered, self.browser.form = form, None
            self._send(form)
        return True

    def _send(self, form: Form) -> None:
        reply = self.browser.send(form)
        self.acknowledged.append(form.fields["idempotency_key"])
        self.unanswered = None
        self.browser.form = Form.of(reply["sheet"].encode()) if reply.get("sheet") else None

    def finish(self) -> None:
        if self.unanswered:
            self.sent_again += 1
            self._send(self.unanswered)


def _round(server: WebServer, reviewers: list[Reviewer], dice: random.Random) -> bool:
    """Kill the web server while reviewers work, and return whether the master was killed too."""
    stop, whole = threading.Event(), dice.random() < 0.5
    threads = [threading.Thread(target=reviewer.work, args=(stop,)) for reviewer in reviewers]
    for thread in threads:
        thread.start()
    time.sleep(dice.uniform(0.2, 1.2))
    if whole:
        server.kill()
        server.start()
    else:
        server.kill_worker(dice.randrange(8))
    time.sleep(dice.uniform(0.5, 1.0))
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
    return whole


def check(url: str, reviewers: list[Reviewer]) -> dict[str, int]:
    keys = [key for reviewer in reviewers for key in reviewer.acknowledged]
    with psycopg.connect(url) as database:
        counts = broken_rules(database)
        row = database.execute(
            "SELECT count(*) FROM labeling_ranking WHERE idempotency_key = ANY(%s::uuid[])"
            " AND superseded_at IS NULL",
            [keys],
        ).fetchone()
        new = database.execute(
            "SELECT count(*) FROM labeling_ranking WHERE rationale = '' AND NOT extra"
            " AND created_at > now() - interval '1 hour' AND active_seconds < 4"
        ).fetchone()
    stored, written = (row[0] if row else 0), (new[0] if new else 0)
    return {
        **counts,
        "acknowledged_and_lost": len(set(keys)) - stored,
        "acknowledged_twice": len(keys) - len(set(keys)),
        "written_and_never_acknowledged": written - len(set(keys)),
        "refused": sum(len(reviewer.errors) for reviewer in reviewers),
    }


def sessions_of(url: str) -> list[str]:
    with psycopg.connect(url) as database:
        rows = database.execute("SELECT session_key FROM django_session ORDER BY 1").fetchall()
    return [row[0] for row in rows]


def prepare(tasks: int) -> int:
    """Load the database and sign the reviewers in. Runs in a separate process."""
    import os

    from benchmarks.support.databases import use

    use(os.environ["DATABASE_URL"])
    from django.core.management import call_command

    from accounts.models import User
    from benchmarks.support.load import load
    from benchmarks.support.web import sign_in

    call_command("migrate", verbosity=0)
    load(tasks, REVIEWERS)
    for user in User.objects.filter(username__startswith="reviewer-").order_by("id")[:REVIEWERS]:
        sign_in(user)
    return 0


if __name__ == "__main__":
    sys.exit(prepare(int(sys.argv[1])))

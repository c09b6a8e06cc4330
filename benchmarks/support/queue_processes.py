"""The processes of a benchmark, and the check of the rankings that they wrote."""

import json
import subprocess
import sys
from typing import IO, Any

import psycopg

from benchmarks.support.databases import environment, say
from config.env import BASE_DIR


class Child:
    """A benchmark in a role, in a separate process with its own database."""

    def __init__(
        self, role: str, url: str, arguments: list[str], benchmark: str = "benchmarks.queue"
    ):
        command = [sys.executable, "-m", benchmark, "--role", role, *arguments]
        self.process = subprocess.Popen(
            command, cwd=BASE_DIR, env=environment(url), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def pipe(self, name: str) -> IO[str]:
        return getattr(self.process, name)

    def send(self, line: str) -> None:
        self.pipe("stdin").write(f"{line}\n")
        self.pipe("stdin").flush()

    def receive(self) -> Any:
        if line := self.pipe("stdout").readline():
            return json.loads(line)
        raise SystemExit(f"a benchmark process ended early, with {self.process.wait()}")

    def wait(self) -> Any:
        self.pipe("stdin").close()
        reply = self.receive()
        if self.process.wait():
            raise SystemExit(f"a benchmark process failed with {self.process.returncode}")
        return reply


TWICE = {
    "slots of a task given to one reviewer twice": (
        "SELECT count(*) FROM (SELECT FROM labeling_ranking WHERE superseded_at IS NULL"
        " GROUP BY task_id, reviewer_id HAVING count(*) > 1) twice"
    ),
    "tasks with more rankings than wanted": (
        "SELECT count(*) FROM (SELECT FROM labeling_ranking ranking"
        " JOIN labeling_task task ON task.id = ranking.task_id"
        " GROUP BY task.id HAVING count(*) > task.rankings_wanted) twice"
    ),
    "rankings whose slot had gone to someone else": (
        "SELECT count(*) FROM labeling_ranking WHERE extra OR superseded_at IS NOT NULL"
    ),
    "rankings without a slot": (
        "SELECT count(*) FROM labeling_ranking ranking WHERE NOT EXISTS"
        " (SELECT FROM labeling_slot WHERE ranking_id = ranking.id)"
    ),
}


def check(url: str) -> dict[str, int]:
    """Return the number of violations, and report each kind on stderr."""
    with psycopg.connect(url) as database:
        counts = {name: database.execute(query).fetchone() for name, query in TWICE.items()}
    wrong = {name: row[0] for name, row in counts.items() if row and row[0]}
    for name, count in wrong.items():
        say(f"WRONG: {count} {name}")
    return {"given_twice": sum(wrong.values())}

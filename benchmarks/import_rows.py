"""The cost of importing a large file, compared with an older version.

Two checkouts take turns on the same files: this one, and one of an older commit in a temporary
worktree with the same Python packages. Each turn reads the file without writing anything, then
imports it with `manage.py import_data` into a new database, which is dropped afterwards.

    python -m benchmarks.import_rows                      a million rows of each shape, one turn
    python -m benchmarks.import_rows --rows 20000 --turns 3 --shapes pairs csv
    python -m benchmarks.import_rows --quick              2,000 rows, one turn

Progress on stderr; the last line of stdout is one JSON object. A ratio is the new figure over the
old one in the same turn; the median over the turns is reported. Processor times of the importing
process and of PostgreSQL are separate figures; wall time includes both. The command fails when the
two versions do not write the same numbers of rows.
"""

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks.support.databases import commit, databases, environment, hardware, say
from benchmarks.support.worktrees import worktree
from config.env import BASE_DIR
from config.local.services import provide

BEFORE = "0f33296"
"""The last commit before imports were rewritten to account for every column."""

SAMPLED_EVERY = 0.1
MB = 1 << 20
TABLES = ("prompt", "response", "task", "slot", "ranking")
WORDS = (
    "lamp", "desk", "light", "switch", "bulb", "warm", "cold", "battery", "cable", "wall", "shelf",
    "garden", "night", "paper", "metal", "glass", "small", "large", "bright", "dark", "order",
    "letter", "shop", "repair", "return", "price", "colour", "shade", "socket", "timer",
)  # fmt: skip

READ = """
import json, sys
from pathlib import Path
import django
django.setup()
try:
    from labeling.importing import reading
    from labeling.importing.records import Tally
except ImportError:  # the older version
    from labeling import importers as reading
    from labeling.importers.records import Tally
path, tally = Path(sys.argv[1]), Tally()
format = reading.detect(path)
if format.read is not None:
    records = format.read(path, tally)
else:
    from labeling.importing.formats.columns import reader
    proposal = reading.proposal_of(path)
    records = reader.read(path, tally, proposal.mapping, proposal.reviewer)
print(json.dumps({"prompts": sum(1 for _ in records)}))
"""


# --- files ---------------------------------------------------------------------------------------


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words)) + "."


def pairs(rows: int, rng: random.Random) -> Iterator[Any]:
    for number in range(rows):
        yield {
            "prompt": f"{number} {text(rng, 12)}",
            "chosen": text(rng, 30),
            "rejected": text(rng, 30),
        }


def lines(rows: int, rng: random.Random) -> Iterator[Any]:
    for number in range(rows):
        yield {
            "messages": [{"role": "user", "content": f"{number} {text(rng, 12)}"}],
            "responses": [{"text": text(rng, 30), "model": model} for model in ("a", "b")],
            "rankings": [{"reviewer": "ada", "tiers": [[1], [0]], "rationale": text(rng, 8)}],
        }


def table(rows: int, rng: random.Random) -> Iterator[Any]:
    yield ["prompt", "response_1", "response_2"]
    for number in range(rows):
        yield [f"{number} {text(rng, 12)}", text(rng, 30), text(rng, 30)]


def single(rows: int, rng: random.Random) -> Iterator[Any]:
    """Yield rows with one response each, two rows per prompt."""
    for number in range(rows):
        prompt = text(random.Random(number // 2), 12)
        yield {
            "prompt": f"{number // 2} {prompt}",
            "response": text(rng, 30),
            "model": "ab"[number % 2],
        }


Shape = Callable[[int, random.Random], Iterator[Any]]
SHAPES: dict[str, tuple[str, Shape]] = {
    "pairs": (".jsonl", pairs),
    "jsonl": (".jsonl", lines),
    "csv": (".csv", table),
    "single": (".jsonl", single),
}


def write_file(path: Path, shape: Shape, rows: int) -> None:
    values = shape(rows, random.Random(rows))
    with path.open("w", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows(values)
        else:
            file.writelines(json.dumps(value) + "\n" for value in values)


# --- one process under measurement ---------------------------------------------------------------


class Memory(threading.Thread):
    """A thread that records peaks of memory: of a process, with its children, and of PostgreSQL.

    It also records the processor time of PostgreSQL's processes.
    """

    def __init__(self, pid: int, url: str):
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.url = url
        self.peak = {"peak_mb": 0.0, "tree_mb": 0.0, "server_mb": 0.0}
        self.processor_seconds: dict[int, float] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        database = conninfo_to_dict(self.url)["dbname"]
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
            while not self.ended.wait(SAMPLED_EVERY):
                with suppress(psutil.NoSuchProcess):
                    own = self.process.memory_info().rss
                    children = self.process.children(recursive=True)
                    self._note("peak_mb", own)
                    self._note("tree_mb", own + sum(map(_resident, children)))
                rows = server.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = %s", [database]
                )
                pids = [pid for (pid,) in rows]
                self._note("server_mb", sum(map(_private, pids)))
                self.processor_seconds |= {pid: seconds for pid in pids if (seconds := _busy(pid))}

    def _note(self, name: str, size: int) -> None:
        self.peak[name] = max(self.peak[name], round(size / MB, 1))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _private(pid: int) -> int:
    """Return the unshared memory of a server process, in bytes; 0 if it is on another machine."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def _busy(pid: int) -> float:
    """Return the processor time of a server process; 0 if it has ended or is on another machine."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def measure(command: Sequence[str], checkout: Path, url: str, var: Path) -> dict[str, Any]:
    own = {**environment(url), "TIEBREAK_VAR": str(var)}
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        running = subprocess.Popen(command, cwd=checkout, env=own, stdout=output)
        memory = Memory(running.pid, url)
        memory.start()
        _, status, usage = os.wait4(running.pid, 0)
        seconds = time.perf_counter() - began
        running.returncode = os.waitstatus_to_exitcode(status)
        memory.ended.set()
        memory.join()
        output.seek(0)
        if running.returncode:
            raise SystemExit(f"{' '.join(command[:3])} failed in {checkout}: {output.read()}")
        last = output.read().splitlines()[-1]
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "server_cpu_seconds": round(sum(memory.processor_seconds.values()), 2),
        **memory.peak,
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
        "last_line": last,
    }


# --- the two versions ----------------------------------------------------------------------------


@contextmanager
def copied(template: str) -> Iterator[str]:
    """Yield the URL of a copy of a database, and drop the copy afterwards."""
    base = os.environ["DATABASE_URL"]
    name = conninfo_to_dict(template)["dbname"]
    copy = f"{name}_copy"
    with psycopg.connect(base, autocommit=True) as server:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(copy))
        server.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(copy), sql.Identifier(str(name))
            )
        )
        server.execute("CHECKPOINT")
        try:
            yield make_conninfo(base, dbname=copy)
        finally:
            server.execute(drop)


def counts(url: str) -> dict[str, int]:
    with psycopg.connect(url) as server:
        rows = {
            name: server.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(f"labeling_{name}"))
            ).fetchone()
            for name in TABLES
        }
    return {name: row[0] for name, row in rows.items() if row}


def turn(checkout: Path, template: str, file: Path, var: Path) -> dict[str, Any]:
    """Return the figures of reading a file, and of importing it into a new database."""
    read = measure([sys.executable, "-c", READ, str(file)], checkout, template, var)
    with copied(template) as url:
        command = [sys.executable, "manage.py", "import_data", str(file)]
        imported = measure([*command, "--project", "bench", "--create-project"], checkout, url, var)
        imported["rows"] = counts(url)
    return {"read": read, "import": imported}


# --- comparison ----------------------------------------------------------------------------------

FIGURES = (
    "seconds", "cpu_seconds", "server_cpu_seconds", "peak_mb", "tree_mb", "server_mb"
)  # fmt: skip


def comparison(shape: str, rows: int, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians of both versions and of their ratios within each turn."""
    case: dict[str, Any] = {"shape": shape, "rows": rows, "turns": len(turns)}
    for step in ("read", "import"):
        case[step] = {}
        for figure in FIGURES:
            old = [turn["before"][step][figure] for turn in turns]
            new = [turn["after"][step][figure] for turn in turns]
            ratios = [b / a for a, b in zip(old, new, strict=True) if a]
            if not ratios:
                continue
            case[step][figure] = {
                "before": statistics.median(old),
                "after": statistics.median(new),
                "ratio": round(statistics.median(ratios), 3),
                "spread": [round(min(ratios), 3), round(max(ratios), 3)],
            }
    case["written"] = turns[0]["after"]["import"]["rows"]
    case["same_rows"] = all(
        turn["before"]["import"]["rows"] == turn["after"]["import"]["rows"]
        and turn["before"]["read"]["last_line"] == turn["after"]["read"]["last_line"]
        for turn in turns
    )
    return case


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2,000 rows")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT")
    options = parser.parse_args(argv)
    options.rows = 2000 if options.quick else options.rows
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    provide()
    with (
        tempfile.TemporaryDirectory(prefix="tiebreak-bench-") as folder,
        worktree(options.before, Path(folder)) as old,
        databases(["before", "after"], "import") as templates,
    ):
        checkouts = {"before": old, "after": BASE_DIR}
        var = {name: Path(folder) / f"var-{name}" for name in checkouts}
        for name, checkout in checkouts.items():
            migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "1"]
            measure(migrate, checkout, templates[name], var[name])
        cases = []
        for shape in options.shapes:
            suffix, values = SHAPES[shape]
            file = Path(folder) / f"{shape}{suffix}"
            write_file(file, values, options.rows)
            turns = []
            for number in range(options.turns):
                # The first version in a turn has colder caches, so the order alternates.
                order = ("before", "after") if number % 2 == 0 else ("after", "before")
                figures = {
                    name: turn(checkouts[name], templates[name], file, var[name]) for name in order
                }
                say(f"{shape}, turn {number + 1}: {json.dumps(figures)}")
                turns.append(figures)
            cases.append(comparison(shape, options.rows, turns))
            file.unlink()
    result = {
        "name": "import_rows", "commit": commit(), "before": options.before,
        "hardware": hardware(), "cases": cases,
    }  # fmt: skip
    print(json.dumps(result))
    return 0 if all(case["same_rows"] for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Time and memory of exports, with few and with many rankings.

Each size has its own database on the server of DATABASE_URL (or the local one), loaded in bulk and
dropped at the end: prompts with four responses and two rankings each. A separate process writes each
form, so that its peak of memory can be measured. Another export is killed halfway and resumed, and must
write the same file.

    python -m benchmarks.export             10,000 and 100,000 rankings
    python -m benchmarks.export --rankings 10000 1000000
    python -m benchmarks.export --quick     1,000 and 10,000

Progress on stderr; the last line of stdout is one JSON object. `memory_ratio` is the peak of memory
at the largest size divided by that at the smallest, for the worst form.
"""

import argparse
import hashlib
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.support.databases import commit, hardware, say
from config.env import BASE_DIR
from config.local.services import provide

RESPONSES = 4
RANKINGS_EACH = 2
SLUG = "bench"
KILLED_UP_TO = 100_000
FORMS = (("pairs", ".jsonl"), ("kwise", ".parquet"), ("full", ".parquet"))


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.role:
        print(json.dumps(ROLES[options.role](options)))
        return 0
    provide()
    cases: list[dict[str, Any]] = []
    for rankings in sorted(set(options.rankings)):
        with database(rankings) as url, tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            child("load", url, "--rankings", str(rankings))
            say(f"{rankings:,} rankings loaded in {time.perf_counter() - begun:.0f} s")
            cases += [measure(url, Path(folder), form, suffix, rankings) for form, suffix in FORMS]
            if rankings <= KILLED_UP_TO:
                cases[-1]["same_after_kill"] = same_after_kill(url, Path(folder), rankings)
    result = {
        "name": "export", "commit": commit(), "hardware": hardware(),
        "memory_ratio": memory_ratio(cases), "cases": cases,
    }  # fmt: skip
    print(json.dumps(result))
    return 0 if all(case.get("same_after_kill", True) for case in cases) else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--rankings", type=int, nargs="+", help="sizes")
    parser.add_argument("--role", choices=sorted(ROLES), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--form", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.rankings = options.rankings or ([1000, 10_000] if options.quick else [10_000, 100_000])
    return options


@contextmanager
def database(rankings: int) -> Iterator[str]:
    base, name = os.environ["DATABASE_URL"], f"tiebreak_bench_{secrets.token_hex(3)}_{rankings}"
    with psycopg.connect(base, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield make_conninfo(base, dbname=name)
        finally:
            drop = "DROP DATABASE IF EXISTS {} WITH (FORCE)"
            server.execute(sql.SQL(drop).format(sql.Identifier(name)))


def process(role: str, url: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "TIEBREAK_SECRET_KEY": "benchmark",
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    command = [sys.executable, "-m", "benchmarks.export", "--role", role, *arguments]
    return subprocess.Popen(
        command, cwd=BASE_DIR, env=environment, text=True, stdout=subprocess.PIPE
    )


def child(role: str, url: str, *arguments: str) -> dict[str, Any]:
    running = process(role, url, *arguments)
    output, _ = running.communicate()
    if running.returncode:
        raise SystemExit(f"a benchmark process failed with {running.returncode}")
    figures: dict[str, Any] = json.loads(output.splitlines()[-1])
    return figures


# --- measuring ------------------------------------------------------------------------------------


def measure(url: str, folder: Path, form: str, suffix: str, rankings: int) -> dict[str, Any]:
    file = folder / f"{form}{suffix}"
    figures = child("export", url, "--form", form, "--file", str(file))
    say(f"{rankings:,} rankings as {form}{suffix}: {figures}")
    case = {"rankings": rankings, "form": form, "file": suffix, **figures}
    return {**case, "rankings_per_s": round(rankings / figures["seconds"])}


def same_after_kill(url: str, folder: Path, rankings: int) -> bool:
    """Return whether a full export that was killed halfway and resumed writes the same file."""
    file = folder / "cut.jsonl"
    whole = folder / "whole.jsonl"
    seconds = child("export", url, "--form", "full", "--file", str(whole))["seconds"]
    running = process("export", url, "--form", "full", "--file", str(file))
    parts = folder / ".cut.jsonl.parts" / "cursor.json"
    until = time.perf_counter() + 60 + seconds
    while not parts.exists() and running.poll() is None and time.perf_counter() < until:
        time.sleep(0.01)
    running.kill()
    running.communicate()
    cut = not file.exists()
    child("export", url, "--form", "full", "--file", str(file))
    same = digest(file) == digest(whole)
    say(f"{rankings:,} rankings, {'killed halfway' if cut else 'done before the kill'}: {same=}")
    return same


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def memory_ratio(cases: list[dict[str, Any]]) -> float:
    ratios = []
    for form, _ in FORMS:
        peaks = [case["peak_mb"] for case in cases if case["form"] == form]
        ratios.append(peaks[-1] / peaks[0])
    return round(max(ratios), 3)


# --- in the children ------------------------------------------------------------------------------


def export(options: argparse.Namespace) -> dict[str, Any]:
    import django

    django.setup()
    from labeling.models import Project
    from reward.preferences.exports import Export

    task = Export(project=Project.objects.get(slug=SLUG), form=options.form)
    before, began = highest_mb(), time.perf_counter()
    counts = task.write(options.file, resumed=lambda counts: None)
    return {
        "rows": counts["rows"],
        "seconds": round(time.perf_counter() - began, 2),
        "peak_mb": highest_mb(),
        "idle_mb": before,
        "file_mb": round(options.file.stat().st_size / 2**20, 1),
    }


def highest_mb() -> float:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / 1024, 1)


def load(options: argparse.Namespace) -> dict[str, Any]:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection, transaction

    from accounts.models import User
    from labeling.models import Project
    from labeling.queue.tasks import NewTask, add_tasks

    call_command("migrate", verbosity=0)
    [rankings] = options.rankings
    with transaction.atomic(), connection.cursor() as cursor:
        project = Project.objects.create(slug=SLUG, name="Bench", rankings_per_task=RANKINGS_EACH)
        users = [User.objects.create(username=f"reviewer-{n}").pk for n in range(RANKINGS_EACH)]
        cursor.execute(_PROMPTS, [project.pk, rankings // RANKINGS_EACH])
        cursor.execute(_RESPONSES, [RESPONSES])
        cursor.execute("SELECT prompt_id, array_agg(id) FROM labeling_response GROUP BY 1")
        add_tasks(project=project, tasks=[NewTask(p, ids) for p, ids in cursor.fetchall()])
        for user in users:
            cursor.execute(_RANKINGS, [user])
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return {"loaded": rankings}


_PROMPTS = """
INSERT INTO labeling_prompt (project_id, messages, content_hash, external_id, meta, created_at)
SELECT %s, jsonb_build_array(jsonb_build_object('role', 'user', 'content',
    repeat('A question ', 20) || n)), md5(n::text), '', '{}', now()
FROM generate_series(1, %s) n
"""
_RESPONSES = """
INSERT INTO labeling_response
    (prompt_id, text, model_name, sampling, external_id, identity, created_at)
SELECT id, repeat('An answer ', 40) || n, 'model-' || n, '{}', '', n::text, now()
FROM labeling_prompt, generate_series(1, %s) n
"""
_RANKINGS = """
INSERT INTO labeling_ranking (task_id, reviewer_id, tiers, ratings, flags, rationale, shown_order,
    active_seconds, source, idempotency_key, extra, created_at)
SELECT task_id, %s, jsonb_build_array(jsonb_build_array(ids[1], ids[2]),
        jsonb_build_array(ids[3]), jsonb_build_array(ids[4])),
    '{}', '{}', 'It names a day.', ids, 12.5, 'import', gen_random_uuid(), false, now()
FROM (SELECT task_id, array_agg(response_id ORDER BY random()) AS ids
    FROM labeling_taskresponse GROUP BY 1) task
"""

ROLES = {"load": load, "export": export}

if __name__ == "__main__":
    sys.exit(main())

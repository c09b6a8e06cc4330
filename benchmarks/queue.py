"""Latency of claims and submits, with small and large queues.

Each size has its own database on the server of DATABASE_URL (or the local one), loaded in bulk and
dropped at the end. Reviewers are processes with one connection each, which claim and submit without
pause. Short turns alternate between the sizes, so that other load on the machine affects all of
them. The tables are checked afterwards. The last case measures, in the largest database, a reviewer
who has ranked half of the tasks, which still have free slots.

    python -m benchmarks.queue            10,000 and 100,000 tasks, 8 reviewers
    python -m benchmarks.queue --quick    the same in about a minute
    python -m benchmarks.queue --http     through gunicorn, 32 reviewers, up to 1,000,000 tasks

Progress on stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.support import queue_http
from benchmarks.support.databases import commit, databases, hardware, p, say
from benchmarks.support.queue_processes import Child, check
from config.local.services import provide

RESPONSES = 4
OVERLAP = 2
SLUG = "bench"


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.role:
        return (ROLES | queue_http.ROLES)[options.role](options)
    if options.http:
        return queue_http.main(options)
    provide()
    with databases_of(options) as urls:
        cases = measure(urls, options)
        cases.append(long_history(urls[max(urls)], options))
    result = {
        "name": "queue", "commit": commit(), "hardware": hardware(), "overlap": OVERLAP,
        "responses": RESPONSES, "turns": options.turns, "turn_seconds": options.seconds,
        "claim_p95_ratio": ratio(cases), "cases": cases,
    }  # fmt: skip
    print(json.dumps(result))
    return 1 if any(case.get("given_twice") for case in cases) else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short turns")
    parser.add_argument("--http", action="store_true", help="use the web server, as pages do")
    parser.add_argument("--tasks", type=int, nargs="+", help="sizes (default 10,000 and 100,000)")
    parser.add_argument("--reviewers", type=int, help="(default 8; over HTTP 32)")
    parser.add_argument("--workers", type=int, default=2, help="gunicorn workers")
    parser.add_argument("--threads", type=int, default=4, help="threads per gunicorn worker")
    parser.add_argument("--turns", type=int, help="turns per size (default 8; quick 3)")
    parser.add_argument("--seconds", type=float, help="seconds per turn (default 5; quick 2)")
    roles = sorted(ROLES | queue_http.ROLES)
    parser.add_argument("--role", choices=roles, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.tasks = options.tasks or [10_000, 100_000, *([1_000_000] if options.http else [])]
    options.reviewers = options.reviewers or (32 if options.http else 8)
    options.turns = options.turns or (3 if options.quick else 8)
    options.seconds = options.seconds or (2.0 if options.quick else 5.0)
    return options


# --- databases ------------------------------------------------------------------------------------


@contextmanager
def databases_of(options: argparse.Namespace) -> Iterator[dict[int, str]]:
    """Yield the URL of a loaded database for each size, and drop the databases afterwards."""
    with databases(sorted(set(options.tasks))) as urls:
        for tasks, url in urls.items():
            began = time.perf_counter()
            child("load", url, "--tasks", str(tasks), options=options).wait()
            say(f"{tasks:,} tasks loaded in {time.perf_counter() - began:.0f} s")
        yield urls


def child(role: str, url: str, *arguments: str, options: argparse.Namespace) -> Child:
    return Child(role, url, [*arguments, "--reviewers", str(options.reviewers)])


# --- measuring ------------------------------------------------------------------------------------


def measure(urls: dict[int, str], options: argparse.Namespace) -> list[dict[str, Any]]:
    crews = {
        tasks: [child("review", url, options=options) for _ in range(options.reviewers)]
        for tasks, url in urls.items()
    }
    turns: dict[int, list[dict[str, Any]]] = {tasks: [] for tasks in crews}
    try:
        for reviewers in crews.values():
            for number, reviewer in enumerate(reviewers):
                reviewer.send(str(number))
                reviewer.receive()
        for turn in range(options.turns + 1):
            for tasks, reviewers in crews.items():
                times = take_turn(reviewers, options.seconds)
                say(f"turn {turn}, {tasks:,} tasks: claim p95 {p(times['claims'], 95):.1f} ms")
                if turn:
                    turns[tasks].append(times)
    finally:
        for reviewers in crews.values():
            for reviewer in reviewers:
                reviewer.pipe("stdin").close()
                reviewer.process.wait(timeout=30)
    return [case(tasks, turns[tasks], url, options) for tasks, url in urls.items()]


def take_turn(reviewers: list[Child], seconds: float) -> dict[str, Any]:
    for reviewer in reviewers:
        reviewer.send(str(seconds))
    replies = [reviewer.receive() for reviewer in reviewers]
    return {
        "claims": [ms for reply in replies for ms in reply["claims"]],
        "submits": [ms for reply in replies for ms in reply["submits"]],
        "seconds": max(reply["seconds"] for reply in replies),
    }


def case(
    tasks: int, turns: list[dict[str, Any]], url: str, options: argparse.Namespace
) -> dict[str, Any]:
    return {"tasks": tasks, **queue_http.figures(turns, options), **check(url)}


def ratio(cases: list[dict[str, Any]]) -> float | None:
    """Return the claim p95 of the largest size divided by that of the smallest."""
    sizes = [case for case in cases if "given_twice" in case]
    return round(sizes[-1]["claim_p95_ms"] / sizes[0]["claim_p95_ms"], 3) if sizes else None


def long_history(url: str, options: argparse.Namespace) -> dict[str, Any]:
    figures = child("veteran", url, options=options).wait()
    say(f"long history: {figures}")
    return figures


# --- in the children ------------------------------------------------------------------------------


def load(options: argparse.Namespace) -> int:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection, transaction

    from labeling.guidelines import versions
    from labeling.models import Project
    from labeling.queue.tasks import NewTask, add_tasks

    call_command("migrate", verbosity=0)
    [count] = options.tasks
    with transaction.atomic():
        project = Project.objects.create(slug=SLUG, name="Bench", rankings_per_task=OVERLAP)
        draft = versions.create_draft(project=project, by=None, text="Be kind.", criteria=[])
        versions.publish(version=draft, by=None)
        make_people(options.reviewers, project)
        fill(project.pk, count)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT prompt_id, array_agg(id) FROM labeling_response GROUP BY 1 ORDER BY 1"
            )
            tasks = [NewTask(prompt, responses) for prompt, responses in cursor.fetchall()]
        add_tasks(project=project, tasks=tasks)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    print(json.dumps({"loaded": count}))
    return 0


def make_people(count: int, project: Any) -> None:
    from accounts.models import User
    from labeling.models import Membership

    for number in range(count + 2):
        user = User.objects.create(username=f"reviewer-{number}")
        Membership.objects.create(project=project, user=user)


def fill(project: int, prompts: int) -> None:
    """Insert prompts and responses of a few hundred characters with SQL."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO labeling_prompt"
            " (project_id, messages, content_hash, external_id, meta, created_at)"
            " SELECT %s, jsonb_build_array(jsonb_build_object('role', 'user', 'content',"
            "  repeat('A question ', 20) || n)), md5(n::text), '', '{}', now()"
            " FROM generate_series(1, %s) n",
            [project, prompts],
        )
        cursor.execute(
            "INSERT INTO labeling_response (prompt_id, text, model_name, sampling, external_id,"
            "  identity, created_at)"
            " SELECT id, repeat('An answer ', 40) || n, 'model', '{}', '', n::text, now()"
            " FROM labeling_prompt, generate_series(1, %s) n",
            [RESPONSES],
        )


def review(options: argparse.Namespace) -> int:
    """Read a reviewer's number, then the seconds of each turn, and print the times of each turn."""
    import django

    django.setup()
    from accounts.models import User
    from labeling.models import Project

    project = Project.objects.get(slug=SLUG)
    user = User.objects.get(username=f"reviewer-{sys.stdin.readline().strip()}")
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(work(project, user, float(line))), flush=True)
    return 0


def work(project: Any, user: Any, seconds: float, most: int = sys.maxsize) -> dict[str, Any]:
    from labeling.queue import slots
    from labeling.rankings import recording
    from labeling.rankings.content import Content

    claims: list[float] = []
    submits: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds and len(submits) < most:
        start = time.perf_counter()
        slot = slots.claim(project=project, reviewer=user)
        claimed = time.perf_counter()
        if slot is None or slot.shown_order is None:
            raise SystemExit("the queue ran empty: use more tasks or shorter turns")
        recording.submit(
            slot_id=slot.pk,
            reviewer=user,
            idempotency_key=uuid.uuid4(),
            content=Content([[response] for response in slot.shown_order], active_seconds=1.0),
        )
        claims.append((claimed - start) * 1000)
        submits.append((time.perf_counter() - claimed) * 1000)
    return {"claims": claims, "submits": submits, "seconds": time.perf_counter() - began}


def veteran(options: argparse.Namespace) -> int:
    """Compare a reviewer who ranked the first half of the open tasks with one who ranked none.

    `claim_once_ms` is the first claim, which skips that history before the cursor does.
    """
    import django

    django.setup()
    from accounts.models import User
    from labeling.models import Project

    project = Project.objects.get(slug=SLUG)
    old, new = (
        User.objects.get(username=f"reviewer-{options.reviewers + number}") for number in (0, 1)
    )
    history = rank_half(project.pk, old.pk)
    times: dict[Any, list[float]] = {old: [], new: []}
    for _ in range(20):
        for user, claims in times.items():
            claims += work(project, user, 60, most=20)["claims"]
    figures = {
        "case": "long history",
        "past_rankings": history,
        "claim_once_ms": round(max(times[old]), 1),
        "claim_p50_ms": round(p(times[old], 50), 2),
        "claim_p95_ms": round(p(times[old], 95), 2),
        "newcomer_claim_p50_ms": round(p(times[new], 50), 2),
        "newcomer_claim_p95_ms": round(p(times[new], 95), 2),
    }
    print(json.dumps(figures))
    return 0


def rank_half(project: int, reviewer: int) -> int:
    """Rank the first half of the open tasks, one slot each, and return their number."""
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "WITH open AS (SELECT task_id, min(number) AS number, min(position) AS position"
            "  FROM labeling_slot WHERE project_id = %(project)s AND reviewer_id IS NULL"
            "  GROUP BY 1 HAVING count(*) = %(overlap)s),"
            " half AS (SELECT task_id, number FROM open ORDER BY position"
            "  LIMIT (SELECT count(*) / 2 FROM open)),"
            " made AS (INSERT INTO labeling_ranking (task_id, reviewer_id, tiers, ratings, flags,"
            "  rationale, shown_order, active_seconds, source, idempotency_key, extra, created_at)"
            "  SELECT task_id, %(reviewer)s, '[]', '{}', '{}', '', '{}', 1, 'import',"
            "  gen_random_uuid(), false, now() FROM half RETURNING id, task_id)"
            " SELECT made.id, made.task_id, half.number FROM made JOIN half USING (task_id)",
            {"project": project, "reviewer": reviewer, "overlap": OVERLAP},
        )
        rows = cursor.fetchall()
        cursor.execute(
            "UPDATE labeling_slot slot SET reviewer_id = %s, ranking_id = made.id"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::int[]) AS made(id, task, number)"
            " WHERE slot.task_id = made.task AND slot.number = made.number",
            [reviewer, *map(list, zip(*rows, strict=True))],
        )
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE labeling_slot, labeling_ranking")
    return len(rows)


ROLES = {"load": load, "review": review, "veteran": veteran}


if __name__ == "__main__":
    sys.exit(main())

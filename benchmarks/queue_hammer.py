"""Stress test of the queue with concurrent claims, submits, skips and expiring leases.

Each seed has its own project. 16 connections, four of them second tabs of other connections'
reviewers, claim 10,000 times without pause. They submit each claim once, twice or late, skip it,
release it, let it expire, or lease another one ahead. The tables are then compared with the
responses that the connections received.

    python -m benchmarks.queue_hammer --seeds 20             10,000 claims per seed
    python -m benchmarks.queue_hammer --quick                one seed, 1,000 claims
    python -m benchmarks.queue_hammer --seeds 0 --kills 50   kill the web server under load 50 times, then
                                                             kill or suspend PostgreSQL, Redis and beat
                                                             50 times

Progress on stderr; the last line of stdout is one JSON object. The exit status is 1 if any rule was
broken.
"""

import argparse
import json
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg

from benchmarks.support.databases import commit, databases, environment, hardware, say, use
from benchmarks.support.rules import broken_rules
from benchmarks.support.service_kills import faults_under_load
from benchmarks.support.web_kills import kill_under_load
from config.env import BASE_DIR
from config.local.services import provide

CONNECTIONS = 16
PROCESSES = 4
TABS = 4
RESPONSES = 3
OVERLAP = 3


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.url:
        return hammer(options)
    provide()
    cases = []
    with databases(["hammer"]) as urls:
        [url] = urls.values()
        prepare(url)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            cases.append(one_seed(url, seed, options))
    if options.kills:
        cases.append(kill_under_load(options.kills))
        cases.append(faults_under_load(options.kills))
    broken = sum(case["broken"][name] for case in cases for name in case["broken"])
    print(
        json.dumps(
            {
                "name": "queue_hammer", "commit": commit(), "hardware": hardware(),
                "broken": broken, "claims": sum(case.get("claims", 0) for case in cases),
                "connections": CONNECTIONS, "cases": cases,
            }
        )
    )  # fmt: skip
    return 1 if broken else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, 1,000 claims")
    parser.add_argument("--seeds", type=int, help="number of seeds (default 20)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--claims", type=int, help="claims per seed (default 10,000)")
    parser.add_argument(
        "--kills",
        type=int,
        default=0,
        help="number of kills of the web server, then of PostgreSQL, Redis or beat",
    )
    for hidden in ("--url", "--seed", "--process"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.seeds = (1 if options.quick else 20) if options.seeds is None else options.seeds
    options.claims = options.claims or (1000 if options.quick else 10_000)
    return options


def prepare(url: str) -> None:
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=BASE_DIR, env=environment(url), check=True,
    )  # fmt: skip


def one_seed(url: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run four processes of four connections each, and compare their records with the tables."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.queue_hammer", "--url", url, "--seed", str(seed)]
    children = [
        subprocess.Popen(
            [*command, "--claims", str(options.claims), "--process", str(process)],
            cwd=BASE_DIR, env=environment(url), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(PROCESSES)
    ]  # fmt: skip
    outputs = [child.communicate()[0] for child in children]
    if failed := [child.returncode for child in children if child.returncode]:
        raise SystemExit(f"a process of seed {seed} failed with {failed[0]}")
    records = [json.loads(text.splitlines()[-1]) for text in outputs]
    counts = sum((Counter(record["counts"]) for record in records), Counter())
    acknowledged = [tuple(row) for record in records for row in record["acknowledged"]]
    case = {
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        **{name: counts[name] for name in sorted(counts)},
        "acknowledged": len(set(acknowledged)),
        "broken": {**check(url, acknowledged), "errors": counts["errors"]},
    }
    say(f"seed {seed}: {json.dumps(case)}")
    return case


def check(url: str, acknowledged: Sequence[tuple[int, int, int]]) -> dict[str, int]:
    """Return counts of broken rules. `acknowledged` has (ranking, task, reviewer) of responses."""
    with psycopg.connect(url) as database:
        counts = broken_rules(database)
        rows = sorted(set(acknowledged))
        stored = database.execute(
            "SELECT count(*) FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) sent(id, task, who)"
            " JOIN labeling_ranking USING (id) WHERE task_id = task AND reviewer_id = who"
            " AND EXISTS (SELECT FROM labeling_ranking kept WHERE kept.task_id = task"
            "  AND kept.reviewer_id = who AND kept.superseded_at IS NULL)",
            [[row[n] for row in rows] for n in range(3)],
        ).fetchone()
    return {**counts, "acknowledged_and_lost": len(rows) - (stored[0] if stored else 0)}


# --- in the children ------------------------------------------------------------------------------


@dataclass
class Connection:
    """A reviewer's browser tab, with the forms that it opened earlier."""

    project: Any
    reviewer: Any
    random: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    acknowledged: list[tuple[int, int, int]] = field(default_factory=list)
    old_forms: list[Any] = field(default_factory=list)

    def claim(self) -> None:
        from labeling.queue import slots

        slot = slots.claim(project=self.project, reviewer=self.reviewer)
        self.counts["claims"] += 1
        if slot is None:
            self.counts["empty"] += 1
            slots.release_expired(project=self.project)
            return
        moves = [
            (self.submit, 55), (self.submit_twice, 10), (self.run_out, 8), (self.submit_late, 7),
            (self.lease_ahead, 8), (self.release, 5), (self.skip, 4), (self.abandon, 3),
        ]  # fmt: skip
        [move] = self.random.choices([m for m, _ in moves], [weight for _, weight in moves])
        move(slot)

    def send(self, slot: Any, key: uuid.UUID) -> Any:
        from labeling.rankings import recording
        from labeling.rankings.content import Content

        order = slot.shown_order[:: 1 if key.int % 2 else -1]
        sent = recording.submit(
            slot_id=slot.pk, reviewer=self.reviewer, idempotency_key=key,
            content=Content([[response] for response in order], active_seconds=1.0),
        )  # fmt: skip
        ranking = sent.ranking
        self.acknowledged.append((ranking.pk, ranking.task_id, ranking.reviewer_id))
        self.counts["submits"] += 1
        self.counts["duplicates"] += sent.duplicate
        self.counts["extras"] += sent.extra
        return sent

    def submit(self, slot: Any) -> None:
        self.send(slot, uuid.uuid4())

    def submit_twice(self, slot: Any) -> None:
        """Submit the same key concurrently on a second connection, as a double click does."""
        key = uuid.uuid4()
        twin = threading.Thread(target=self._twin, args=(slot, key))
        twin.start()
        first = self.send(slot, key)
        twin.join()
        again = self.send(slot, key)
        if first.ranking.idempotency_key == key and again.ranking.pk != first.ranking.pk:
            self.counts["errors"] += 1
            say("WRONG: a second click made a second ranking")

    def _twin(self, slot: Any, key: uuid.UUID) -> None:
        from django.db import connection

        try:
            self.send(slot, key)
        except Exception as error:
            self.counts["errors"] += 1
            say(f"WRONG: a double submit failed: {error!r}")
        finally:
            connection.close()

    def run_out(self, slot: Any) -> None:
        from django.utils import timezone

        from labeling.models import Slot
        from labeling.queue import slots

        past = timezone.now() - timedelta(seconds=1)
        mine = Slot.objects.filter(pk=slot.pk, reviewer=self.reviewer, leased_until__isnull=False)
        mine.update(leased_until=past)
        self.counts["expiries"] += slots.release_expired(project=self.project)
        self.old_forms.append(slot)

    def submit_late(self, slot: Any) -> None:
        self.old_forms.append(slot)
        late = self.old_forms.pop(self.random.randrange(len(self.old_forms)))
        self.counts["late"] += 1
        self.send(late, uuid.uuid4())

    def lease_ahead(self, slot: Any) -> None:
        from labeling.queue import slots

        self.counts["ahead"] += 1
        following = slots.claim_ahead(project=self.project, reviewer=self.reviewer)
        if following is not None and self.random.random() < 0.3:
            self.submit(following)
        self.submit(slot)

    def release(self, slot: Any) -> None:
        from labeling.queue import slots

        self.counts["releases"] += slots.release(slot_id=slot.pk, reviewer=self.reviewer)
        self.old_forms.append(slot)

    def skip(self, slot: Any) -> None:
        from labeling.queue import slots

        self.counts["skips"] += slots.skip(
            slot_id=slot.pk, reviewer=self.reviewer, reason="unclear"
        )

    def abandon(self, slot: Any) -> None:
        self.old_forms.append(slot)


def hammer(options: argparse.Namespace) -> int:
    use(options.url)
    seed, process = int(options.seed), int(options.process)
    project, people = world(seed, tasks=max(options.claims // 3, 50))
    mine = range(process * CONNECTIONS // PROCESSES, (process + 1) * CONNECTIONS // PROCESSES)
    connections = [
        Connection(
            project, people[number % (CONNECTIONS - TABS)], random.Random(f"{seed}-{number}")
        )
        for number in mine
    ]
    each = -(-options.claims // CONNECTIONS)
    with ThreadPoolExecutor(len(connections)) as pool:
        for done in [pool.submit(drive, connection, each) for connection in connections]:
            done.result()
    print(
        json.dumps(
            {
                "counts": sum((tab.counts for tab in connections), Counter()),
                "acknowledged": [row for tab in connections for row in tab.acknowledged],
            }
        )
    )
    return 0


def drive(tab: Connection, claims: int) -> None:
    from django.db import connection

    for _ in range(claims):
        try:
            tab.claim()
        except Exception as error:
            tab.counts["errors"] += 1
            say(f"WRONG: {error!r}")
    connection.close()


def world(seed: int, tasks: int) -> tuple[Any, list[Any]]:
    """Return the project of a seed and its reviewers; the first process creates them."""
    from django.db import connection, transaction

    from accounts.models import User
    from labeling.guidelines import versions
    from labeling.models import Membership, Project

    slug = f"hammer-{seed}"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(1)")
        if not Project.objects.filter(slug=slug).exists():
            project = Project.objects.create(slug=slug, name=slug, rankings_per_task=OVERLAP)
            draft = versions.create_draft(project=project, by=None, text="Be kind.", criteria=[])
            versions.publish(version=draft, by=None)
            for number in range(CONNECTIONS - TABS):
                user = User.objects.create(username=f"{slug}-{number}")
                Membership.objects.create(project=project, user=user)
            add(project, tasks)
    people = User.objects.filter(memberships__project__slug=slug).order_by("id")
    return Project.objects.get(slug=slug), list(people)


def add(project: Any, tasks: int) -> None:
    from labeling.models import Prompt, Response
    from labeling.queue.tasks import NewTask, add_tasks

    prompts = [
        Prompt(project=project, messages=[{"role": "user", "content": "?"}], content_hash=str(n))
        for n in range(tasks)
    ]
    Prompt.objects.bulk_create(prompts)
    responses = [
        Response(prompt=prompt, text="!", model_name="m", identity=str(n))
        for prompt in prompts
        for n in range(RESPONSES)
    ]
    Response.objects.bulk_create(responses)
    ids = [response.pk for response in responses]
    add_tasks(
        project=project,
        tasks=[
            NewTask(prompt.pk, ids[n * RESPONSES : (n + 1) * RESPONSES])
            for n, prompt in enumerate(prompts)
        ],
    )


if __name__ == "__main__":
    sys.exit(main())

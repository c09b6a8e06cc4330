"""Response times of all list pages, including the admin's, for a lead on a large project.

    python -m benchmarks.pages                    100,000 tasks, 200,000 rankings
    python -m benchmarks.pages --tasks 1000000    2,000,000 rankings; loading takes minutes

Each page is requested five times in this process, through all middleware. The first request, with
cold caches, must take at most MAX_MS; the median is also reported. Query counts of these pages are
pinned in tests/house/query_counts.json.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.support.databases import commit, databases, hardware, say, use
from config.local.services import provide

MAX_MS = 200
TIMES = 5

PROJECT_PAGES = (
    "project", "project-guideline", "project-guideline-edit", "project-members", "project-webhooks", "project-quality", "project-data", "project-import",
    "project-export", "queue-order", "project-findings", "project-gold", "project-disputes",
    "project-raise", "certificates", "regression-set", "withdrawals", "project-relabel", "project-settings", "project-label-mistakes", "review-history",
)  # fmt: skip
SITE_PAGES = (
    "home",
    "projects",
    "people",
    "tokens",
    "snapshots",
    "runs",
    "run-disk",
    "run-queue",
    "models",
    "chats",
)


def addresses(slug: str) -> dict[str, str]:
    """Return the URL of every list page by name. Add new list pages here."""
    from django.contrib import admin
    from django.urls import reverse

    pages = {name: reverse(name) for name in SITE_PAGES}
    pages |= {name: reverse(name, args=[slug]) for name in PROJECT_PAGES}
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"
        pages[name] = reverse(name)
    return dict(sorted(pages.items()))


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    provide()
    with databases([options.tasks], prefix="pages") as urls:
        use(urls[options.tasks])
        from django.core.management import call_command
        from django.db import connections

        from benchmarks.support.load import load
        from labeling.reviewing.progress import count_large_projects

        call_command("migrate", verbosity=0)
        began = time.perf_counter()
        loaded = load(options.tasks, 32)
        say(f"{loaded} loaded in {time.perf_counter() - began:.0f} s")
        count_large_projects()  # the worker does this every five minutes
        cases = measure()
        result = {
            "name": "pages", "commit": commit(), "hardware": hardware(), **loaded,
            "slow": [case["page"] for case in cases if case["first_ms"] > MAX_MS],
            "cases": cases,
        }  # fmt: skip
        connections.close_all()
    print(json.dumps(result))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="10,000 tasks")
    options = parser.parse_args(argv)
    options.tasks = 10_000 if options.quick else options.tasks
    return options


def measure() -> list[dict[str, Any]]:
    from django.test import Client

    from accounts.models import User
    from benchmarks.support.load import SLUG

    client = Client(headers={"host": "localhost"})
    client.force_login(User.objects.get(username="lead"))
    cases = []
    for name, address in addresses(SLUG).items():
        times = []
        for _ in range(TIMES):
            began = time.perf_counter()
            answer = client.get(address)
            times.append((time.perf_counter() - began) * 1000)
            if answer.status_code != 200:
                raise SystemExit(f"{address} answered {answer.status_code}")
        case = {
            "page": name,
            "p50_ms": round(statistics.median(times), 1),
            "first_ms": round(times[0], 1),
            "bytes": len(answer.content),
        }
        say(f"{case}")
        cases.append(case)
    return cases


if __name__ == "__main__":
    sys.exit(main())

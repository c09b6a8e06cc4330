"""Do runs survive the faults of their machine?

    python -m benchmarks.soak                  200 runs, a fault every 2.5 seconds, at most 16 minutes
    python -m benchmarks.soak --quick          10 runs
    python -m benchmarks.soak --seed 7         other runs and other faults

The benchmark starts its own PostgreSQL, Redis, workers and scheduler in a temporary directory, and a
person who starts short runs, cancels some of them, and continues those that a full disk has ended. All
the while, it kills, suspends and restarts the parts of the machine. A fault is caused only while a run
is in progress, so that a slow machine gets to the runs too. In the end, every run must have the state
that its plan implies. Progress on stderr; the last line of stdout is one JSON object. The exit status
is 1 if a rule was broken.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.databases import commit, hardware, say, use
from benchmarks.support.soak import machine as machines

STEP_SECONDS = 0.2
DRAIN_SECONDS = 60
RECHECK_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # after the machine is removed
    with machines.machine(options.keep) as machine:
        use(os.environ["DATABASE_URL"])
        case = soak(machine, options)
        report = {
            "name": "soak", "commit": commit(), "hardware": hardware(),
            "broken": sum(case["broken"].values()), "cases": [case],
        }  # fmt: skip
    print(json.dumps(report))
    return 1 if report["broken"] else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10 runs")
    parser.add_argument("--runs", type=int, help="number of runs (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs and faults")
    parser.add_argument("--every", type=float, default=2.5, help="mean seconds between two faults")
    parser.add_argument(
        "--minutes",
        type=float,
        default=15.0,
        help="minutes after which no further run or fault begins (default 15)",
    )
    parser.add_argument("--keep", type=Path, help="folder for the logs and run directories")
    options = parser.parse_args(argv)
    options.runs = options.runs or (10 if options.quick else 200)
    return options


def soak(machine: machines.Machine, options: argparse.Namespace) -> dict[str, Any]:
    """Return the case of the report: the faults, the states of the runs, and the broken rules."""
    from django.db import connection

    from benchmarks.support.soak import rules
    from benchmarks.support.soak.faults import Faults
    from benchmarks.support.soak.user import User
    from runs.models import Run

    with connection.cursor() as cursor:
        cursor.execute(rules.CREATE_TABLE)
    began = time.monotonic()
    dice = random.Random(options.seed)
    faults = Faults(machine, random.Random(f"{options.seed} faults"))
    user = User(machine, faults, random.Random(f"{options.seed} runs"), options.runs)
    next_fault = began + 1
    limit = began + 60 * options.minutes
    while not user.step() and time.monotonic() < limit + DRAIN_SECONDS:
        machine.revive()
        if time.monotonic() > limit:
            user.waiting.clear()
        elif time.monotonic() >= next_fault:
            # On a busy machine, workers need long to start. Without this, they might never get to a run.
            if is_busy := bool(machine.recipes()):
                faults.cause_one()
            pause = options.every * dice.uniform(0.5, 1.5) if is_busy else RECHECK_SECONDS
            next_fault = time.monotonic() + pause
        time.sleep(STEP_SECONDS)
    faults.end_all()
    machine.stop_workers()
    violations = rules.check(machine, user, faults)
    states = Counter(Run.objects.values_list("state", flat=True))
    say(f"{len(user.plans)} runs: {dict(states)}")
    return {
        "seed": options.seed,
        "runs": len(user.plans),
        **machines.environment(machine),
        "seconds": round(time.monotonic() - began, 1),
        "faults": sum(faults.counts.values()),
        "faults_by_kind": dict(sorted(faults.counts.items())),
        "planned": dict(Counter(plan.outcome for plan in user.plans)),
        "states": dict(states),
        "attempts": sum(Run.objects.values_list("fencing_token", flat=True)),
        "continued_by_hand": sum(plan.continued for plan in user.plans),
        "broken": dict(violations),
    }


if __name__ == "__main__":
    sys.exit(main())

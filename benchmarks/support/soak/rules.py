"""The rules that must hold after a soak."""

import fcntl
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from django.db import connection

from benchmarks.support.databases import say
from benchmarks.support.soak.faults import Faults
from benchmarks.support.soak.machine import Machine
from benchmarks.support.soak.recipe import digest_of
from runs.models import ENDED, Run, RunEvent, State

if TYPE_CHECKING:  # it registers a run kind, which tests of the rules must not
    from benchmarks.support.soak.user import User

CREATE_TABLE = "CREATE TABLE soak_result (run_id bigint NOT NULL)"
"""The table with a row for each time that a run's results were stored. It has no unique constraint."""

RULES = (
    "not_ended", "wrong_state", "wrong_result", "failed_without_a_reason", "started_twice",
    "stored_not_once", "two_recipes_at_once", "events_lost", "events_doubled", "orphan_processes",
    "slots_not_free",
)  # fmt: skip


class Violations(Counter[str]):
    """The number of violations of each rule. Each is printed."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(RULES, 0))

    def add(self, rule: str, run_id: object, detail: object, count: int = 1) -> None:
        self[rule] += count
        say(f"BROKEN {rule}: run {run_id}: {detail}")


def check(machine: Machine, user: "User", faults: Faults) -> Violations:
    """Return the number of violations of each rule, after the workers have been stopped."""
    violations = Violations()
    runs = Run.objects.in_bulk()
    rows = rows_stored()
    for plan in user.plans:
        run = runs.pop(plan.run_id)
        for complaint in plan.complaints:
            violations.add("failed_without_a_reason", run.pk, complaint)
        if run.state not in ENDED:
            violations.add("not_ended", run.pk, run.state)
        elif not user.is_expected(plan, run):
            violations.add("wrong_state", run.pk, f"{plan.outcome}: {run.state} {run.error}")
        if run.state == State.SUCCEEDED and run.result.get("digest") != digest_of(plan.steps):
            violations.add("wrong_result", run.pk, run.result)
        if rows[run.pk] != (run.state == State.SUCCEEDED):
            violations.add("stored_not_once", run.pk, f"{run.state}: stored {rows[run.pk]} times")
        _check_events(violations, run, ledger(machine, run), faults.cut_events[run.pk])
    for run in runs.values():
        violations.add("started_twice", run.pk, run.request_id)
    for process, run_id in machine.recipes().items():
        violations.add("orphan_processes", run_id, process)
    for path in (machine.disk.folder / "slots").glob("*.lock"):
        if not is_free(path):
            violations.add("slots_not_free", "-", path)
    return violations


def _check_events(
    violations: Violations, run: Run, record: list[tuple[str, str]], cut: int
) -> None:
    """Compare the stored events with those that the recipe has written.

    The last events of a cancelled run may be missing: if its worker is lost, no other one copies them.
    `cut` further events may be missing, because a fault has removed them from the file.
    """
    if pids := [value for what, value in record if what == "twice"]:
        violations.add("two_recipes_at_once", run.pk, pids)
    written = [value for what, value in record if what == "event"]
    marks = RunEvent.objects.filter(run=run, data__has_key="mark")
    stored = Counter(marks.values_list("data__mark", flat=True))
    if run.state == State.CANCELLED:
        while written and not stored[written[-1]]:
            written.pop()
    missing = [mark for mark in written if not stored[mark]]
    if len(missing) > cut:
        violations.add("events_lost", run.pk, missing, len(missing) - cut)
    if doubled := [mark for mark, count in stored.items() if count > 1]:
        violations.add("events_doubled", run.pk, doubled, len(doubled))


def rows_stored() -> Counter[int]:
    """Return how often the results of each run were stored."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT run_id, count(*) FROM soak_result GROUP BY run_id")
        return Counter(dict(cursor.fetchall()))


def ledger(machine: Machine, run: Run) -> list[tuple[str, str]]:
    """Return what the recipe's processes have recorded, as (what, value)."""
    path = machine.ledgers / str(run.pk)
    lines = path.read_text().splitlines() if path.exists() else []
    return [(what, value) for what, _, value in (line.partition(" ") for line in lines)]


def is_free(path: Path) -> bool:
    """Return whether no process holds the lock of a slot."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True

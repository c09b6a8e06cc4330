"""Tests of the rules of `python -m benchmarks.soak`: each violation is counted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection

from benchmarks.support.soak import recipe, rules
from recipes.rundir import RunDir
from runs.models import Run, RunEvent, State
from tests.runs.test_lifecycle import in_state

pytestmark = pytest.mark.django_db


@pytest.fixture
def machine(tmp_path: Path) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(rules.CREATE_TABLE)
    return SimpleNamespace(
        ledgers=tmp_path, disk=SimpleNamespace(folder=tmp_path), recipes=lambda: {}
    )


def violations(machine: Any, run: Run, written: list[str], *, cut: int = 0) -> dict[str, int]:
    """Check one successful run of three steps, and return the rules that were broken."""
    (machine.ledgers / str(run.pk)).write_text("".join(f"{line}\n" for line in written))
    user: Any = SimpleNamespace(
        plans=[SimpleNamespace(run_id=run.pk, outcome="succeeds", steps=3, complaints=[])],
        is_expected=lambda plan, run: run.state == State.SUCCEEDED,
    )
    faults: Any = SimpleNamespace(cut_events={run.pk: cut})
    return {rule: count for rule, count in rules.check(machine, user, faults).items() if count}


def store(run: Run, *marks: str) -> None:
    for number, mark in enumerate(marks, 1):
        RunEvent.objects.create(
            run=run, number=number, at=run.created_at, event="progress", data={"mark": mark}
        )
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO soak_result VALUES (%s)", [run.pk])


def succeeded() -> Run:
    return in_state(State.SUCCEEDED, result={"digest": recipe.digest_of(3)})


def test_a_run_that_keeps_all_rules_has_no_violation(machine):
    run = succeeded()
    store(run, "a", "b")
    assert violations(machine, run, ["event a", "event b"]) == {}


def test_lost_and_doubled_events_are_counted(machine):
    run = succeeded()
    store(run, "a", "a", "b")
    written = ["event a", "event b", "event c", "event d"]
    assert violations(machine, run, written) == {"events_lost": 2, "events_doubled": 1}
    assert violations(machine, run, written, cut=1) == {"events_lost": 1, "events_doubled": 1}


def test_a_wrong_result_and_a_second_start_are_counted(machine):
    run = in_state(State.SUCCEEDED, result={"digest": recipe.digest_of(4)})
    in_state(State.SUCCEEDED)
    broken = violations(machine, run, ["twice 7"])
    assert broken == {
        "wrong_result": 1, "started_twice": 1, "stored_not_once": 1, "two_recipes_at_once": 1,
    }  # fmt: skip


def test_a_run_in_the_wrong_state_is_counted(machine):
    assert violations(machine, in_state(State.FAILED), []) == {"wrong_state": 1}
    assert violations(machine, in_state(State.RUNNING), [])["not_ended"] == 1


def test_a_second_process_of_the_recipe_is_recorded(tmp_path):
    first = recipe.Ledger(tmp_path / "1")
    second = recipe.Ledger(tmp_path / "1")
    assert (tmp_path / "1").read_text().startswith("twice ")
    assert first.lock != second.lock


def test_the_recipe_resumes_and_gives_the_same_result(tmp_path, machine):
    run_dir = RunDir.create(tmp_path / "7", {})
    config = {"steps": 9, "delay": 0.0, "fails_at": 6}
    stop: Any = SimpleNamespace(requested=False)
    ledger = recipe.Ledger(tmp_path / "ledger")
    assert recipe.count(run_dir, config, ledger, stop) == 1
    assert recipe.count(run_dir, {**config, "fails_at": 0}, ledger, stop) == 0
    assert recipe.digest_of(9) in (run_dir.output / "count.json").read_text()

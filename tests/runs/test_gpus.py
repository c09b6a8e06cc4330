"""Tests that runs on one machine do not share GPUs. A fake nvidia-smi reports the GPUs."""

import json
import os
import threading
from contextlib import ExitStack
from dataclasses import replace

import pytest
from django.db.models.functions import Now

from recipes.machine.gpus import VISIBLE, Gpu
from runs import execution, lifecycle
from runs.models import Run, State
from runs.supervision import child, gpus, supervisor
from runs.supervision.gpus import lease_gpus, share_of
from tests.machines import install_smi
from tests.runs.kinds import COUNTING

SEVERAL = replace(COUNTING, multi_gpu=True)


class Waited(Exception):
    """Raised instead of waiting."""


def refuse_to_wait():
    raise Waited


@pytest.fixture(autouse=True)
def machine(settings, tmp_path, monkeypatch):
    """Make this machine one with two GPUs, and return a function that changes it."""
    settings.VAR_DIR = tmp_path / "var"
    monkeypatch.delenv(VISIBLE, raising=False)

    def change(*, visible=None, **changes):
        install_smi(monkeypatch, tmp_path, **changes)
        if visible is not None:
            monkeypatch.setenv(VISIBLE, visible)

    change(gpus=2)
    return change


def names_of(stack, kind=COUNTING):
    return stack.enter_context(lease_gpus(kind, refuse_to_wait)).names


def test_each_run_gets_its_own_gpu_and_a_third_one_waits():
    with ExitStack() as first, ExitStack() as second, ExitStack() as third:
        assert names_of(first) == ("GPU-aa0",)
        assert names_of(second) == ("GPU-aa1",)
        with pytest.raises(Waited):
            names_of(third)
        first.close()
        assert names_of(third) == ("GPU-aa0",)


@pytest.mark.parametrize(
    ("count", "at_once", "share"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (2, 4, 1), (1, 1, 1)]
)
def test_a_run_of_several_processes_gets_an_equal_share(settings, count, at_once, share):
    settings.RUNS_AT_ONCE = at_once
    assert share_of(count, SEVERAL) == share
    assert share_of(count, COUNTING) == 1


def test_a_run_takes_the_free_gpus_rather_than_wait_for_its_whole_share():
    with ExitStack() as first, ExitStack() as second:
        assert names_of(first) == ("GPU-aa0",)
        assert names_of(second, SEVERAL) == ("GPU-aa1",)


def test_a_run_without_others_gets_all_gpus():
    with ExitStack() as stack:
        assert names_of(stack, SEVERAL) == ("GPU-aa0", "GPU-aa1")


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1", ("1",)),
        ("1,0", ("1", "0")),
        ("", ()),
        ("-1", ()),
        ("0,-1", ("0",)),
        ("MIG-b", ("MIG-b",)),
    ],
)
def test_only_gpus_that_the_worker_may_use_are_leased(machine, visible, names):
    machine(gpus=2, visible=visible)
    with ExitStack() as stack:
        assert names_of(stack, SEVERAL) == names


def test_the_number_and_the_id_of_a_gpu_are_one_lease(machine):
    with ExitStack() as first, ExitStack() as second:
        machine(gpus=2, visible="1")
        assert names_of(first) == ("1",)
        machine(gpus=2, visible="GPU-aa1")
        with pytest.raises(Waited):
            names_of(second)


def test_the_gpu_with_the_most_free_memory_is_taken_first(monkeypatch):
    busy = [Gpu("0", "GPU-aa0", "H", 100, 10), Gpu("1", "GPU-aa1", "H", 100, 90)]
    monkeypatch.setattr(gpus.gpus, "installed", lambda: busy)
    with ExitStack() as stack:
        assert names_of(stack) == ("GPU-aa1",)


def test_a_kind_that_needs_no_gpu_does_not_wait_for_one(machine):
    machine(gpus=1)
    with ExitStack() as first, ExitStack() as second:
        assert names_of(first) == ("GPU-aa0",)
        assert names_of(second, replace(COUNTING, uses_gpu=False)) == ()


def test_a_machine_without_gpus_leases_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with ExitStack() as stack:
        assert names_of(stack, SEVERAL) == ()


def test_the_gpu_stays_leased_until_the_recipe_has_ended(tmp_path, machine):
    machine(gpus=1)
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    with lease_gpus(COUNTING, refuse_to_wait) as lease:
        process = child.Child(["sleep", "60"], log=tmp_path / "log", lock=lock, gpus=lease)
    os.close(lock)
    with ExitStack() as stack:
        with pytest.raises(Waited):
            names_of(stack)
        process.kill()
        assert names_of(stack) == ("GPU-aa0",)


def test_several_gpus_are_used_by_one_process_each(tmp_path):
    line = child.command_for("reward.training.train", tmp_path, gpus=2)
    assert line[1:3] == ["-m", "accelerate.commands.launch"]
    assert line[line.index("--num_processes") + 1] == "2"
    for count in (0, 1):
        assert "accelerate" not in " ".join(child.command_for("a.b", tmp_path, gpus=count))
    assert child.environment(line, ("a", "b"))[VISIBLE] == "a,b"
    assert VISIBLE not in child.environment(line)


# --- whole runs -------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_recipe_sees_only_the_gpus_of_its_run(begin, runs_dir):
    with lease_gpus(COUNTING, refuse_to_wait):
        run = execution.run_now(begin(total=2, send=False).pk)
    assert run.state == State.SUCCEEDED, run.error
    environment = json.loads((runs_dir / str(run.pk) / "environment.json").read_text())
    assert environment[VISIBLE] == "GPU-aa1"


@pytest.mark.django_db
def test_a_run_that_waits_for_a_gpu_says_so_and_then_continues(
    begin, runs_dir, machine, monkeypatch
):
    machine(gpus=1)
    monkeypatch.setattr(gpus, "WAIT_SECONDS", 0.01)
    run = begin(total=2, send=False)
    with ExitStack() as other:
        assert names_of(other) == ("GPU-aa0",)
        real = supervisor.RecipeProcess.wait_for_gpu

        def wait_then_free(self):
            real(self)
            stages = Run.objects.get(pk=run.pk).events.filter(event="stage")
            assert "Waiting for a free GPU" in [event.data["text"] for event in stages]
            other.close()

        monkeypatch.setattr(supervisor.RecipeProcess, "wait_for_gpu", wait_then_free)
        ended = execution.run_now(run.pk)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1)


@pytest.mark.django_db
def test_a_run_cancelled_while_it_waits_for_a_gpu_ends_as_cancelled(
    begin, runs_dir, machine, monkeypatch
):
    machine(gpus=1)
    run = begin(total=2, send=False)
    real = supervisor.RecipeProcess.wait_for_gpu

    def cancel_then_wait(self):
        Run.objects.filter(pk=run.pk).update(cancel_requested_at=Now())
        real(self)

    monkeypatch.setattr(supervisor.RecipeProcess, "wait_for_gpu", cancel_then_wait)
    with lease_gpus(COUNTING, refuse_to_wait):
        ended = execution.run_now(run.pk)
    assert (ended.state, ended.error) == (State.CANCELLED, "")
    assert not (runs_dir / str(run.pk) / "recipe.pid").exists()


@pytest.mark.django_db
def test_a_worker_that_shuts_down_requeues_a_run_that_waits_for_a_gpu(
    begin, runs_dir, machine, monkeypatch
):
    machine(gpus=1)
    run = begin(total=2, send=False)
    monkeypatch.setattr(supervisor, "SHUTTING_DOWN", threading.Event())
    supervisor.SHUTTING_DOWN.set()
    with lease_gpus(COUNTING, refuse_to_wait):
        supervisor.supervise(lifecycle.claim(run.pk, supervisor.owner()))
    run.refresh_from_db()
    assert run.state == State.QUEUED and run.attempt == 0

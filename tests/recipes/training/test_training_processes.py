"""Tests that two processes give the same run as one, resumed or not."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from recipes.errors import RecipeError, RestartRequired
from recipes.machine import processes
from recipes.machine.memory import is_out_of_memory, with_smaller_batches
from recipes.rundir import ENDED, RESTART, STOPPED, RunDir
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from recipes.training.trainer import train_to_the_end
from reward.kinds import REWARD
from reward.training.parts import Part
from reward.training.train import train
from runs.supervision import child, workspace
from tests.reward.world import make_groups, make_run, messages, tiny_llama

torch.set_num_threads(1)

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "lora_dropout": 0.0,  # each process would draw a different dropout mask
    "batch_size": 6,
    "micro_batch_size": 3,
    "epochs": 10,
    "checkpoint_steps": 2,
}


def same_run(folder: Path, model: Path) -> RunDir:
    """Return a run in which one process has no prompt in the last step of each epoch."""
    return make_run(folder, model, make_groups(19, 8), **SETTINGS)


def launched(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, module: str = REWARD.module
) -> subprocess.Popen:
    """Start the recipe with the supervisor's command for a machine with two GPUs."""
    assert REWARD.multi_gpu
    command = child.command_for(module, run_dir.path, gpus=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)


def wait_for_checkpoint(run_dir: RunDir, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not list(run_dir.checkpoints.glob("checkpoint-*")):
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.01)


def losses(run_dir: RunDir) -> dict[int, float]:
    """Return the loss of each step, and the last one of a repeated step."""
    return {e["step"]: e["loss"] for e in run_dir.events() if e["event"] == "progress"}


def test_two_processes_stopped_and_resumed_give_the_same_run_as_one(tmp_path, monkeypatch):
    model = tiny_llama(tmp_path)
    alone, together = same_run(tmp_path / "alone", model), same_run(tmp_path / "together", model)
    first = launched(together, monkeypatch)
    train(alone, StopSignal())
    wait_for_checkpoint(together, first)
    first.terminate()
    assert first.wait(60) == 1  # the launcher's status, which is always 1
    assert workspace.recorded_ending(together) == STOPPED
    assert messages(together, "info")[-1].startswith("Stopped on request")
    assert not together.output.exists() and not messages(together, "error")
    assert launched(together, monkeypatch).wait(120) == 0

    resumed = [text for text in messages(together, "info") if text.startswith("Resuming from")]
    assert len(resumed) == 1  # only one of the two processes writes events
    steps = [e["step"] for e in together.events() if "loss" in e and e["metrics"].get("grad_norm")]
    assert steps == sorted(set(steps)) == list(range(1, 41))
    assert losses(together) == pytest.approx(losses(alone), abs=1e-5)
    ours, theirs = (load_file(r.output / "adapter_model.safetensors") for r in (alone, together))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-5, rtol=0)
    [item, second] = [json.loads((r.output / "report.json").read_text()) for r in (alone, together)]
    assert item["accuracy"] == second["accuracy"]
    assert (item["training"]["processes"], second["training"]["processes"]) == (1, 2)


def test_only_the_first_process_reports_and_only_the_first_failure_is_reported(
    tmp_path, monkeypatch
):
    run_dir = RunDir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    second = processes.run_dir_for(str(tmp_path))
    second.message("Not told.")
    assert run_dir.events() == []
    processes.report_ending(second, RESTART, "The loss was not finite.", "error")
    monkeypatch.setenv("RANK", "0")
    processes.run_dir_for(str(tmp_path))  # begins after the other process has failed
    processes.report_ending(run_dir, 1, "The other process is gone.", "error")
    assert messages(run_dir, "error") == ["The loss was not finite."]
    assert workspace.recorded_ending(run_dir) == RESTART


def test_the_exit_status_of_an_earlier_launch_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    earlier = processes.ending_file(RunDir(tmp_path), os.getppid() + 1)
    earlier.write_text("75")
    # The same number, but of a process that was started at another time.
    namesake = earlier.with_name(f"{ENDED}{os.getppid()}-1")
    namesake.write_text("75")
    run_dir = processes.run_dir_for(str(tmp_path))
    assert workspace.recorded_ending(run_dir) is None
    processes.report_ending(run_dir, 1, "It broke.", "error")
    assert messages(run_dir, "error") == ["It broke."] and workspace.recorded_ending(run_dir) == 1


def test_a_process_waiting_for_a_failed_one_ends(tmp_path):
    code = (
        "import sys, time; from recipes.machine import processes\n"
        "run_dir = processes.run_dir_for(sys.argv[1]); processes.LEAVE_SECONDS = 0.1\n"
        "processes.exit_with_first(run_dir); time.sleep(50)"
    )
    environment = {**os.environ, "RANK": "1", "WORLD_SIZE": "2"}
    waiting = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, cwd=ROOT
    )
    processes.ending_file(RunDir(tmp_path), os.getpid()).write_text(str(RESTART))
    assert waiting.wait(30) == RESTART


def test_a_restart_after_out_of_memory_in_one_process_uses_a_smaller_batch(tmp_path, monkeypatch):
    model, groups = tiny_llama(tmp_path), make_groups(19, 8)
    settings = {**SETTINGS, "batch_size": 8, "micro_batch_size": 8, "epochs": 2}
    alone, together = (make_run(tmp_path / n, model, groups, **settings) for n in ("a", "b"))
    first = launched(together, monkeypatch, "tests.recipes.training.small_machine")
    train(alone, StopSignal())
    assert first.wait(120) == 1
    assert workspace.recorded_ending(together) == RESTART
    [warning] = [text for text in messages(together, "warning") if "memory" in text]
    assert "with 4 examples at a time in process 2 of 2" in warning
    assert "continues with 2 at a time. Each update still uses 8 examples." in warning
    assert launched(together, monkeypatch, "tests.recipes.training.small_machine").wait(120) == 0
    assert messages(together, "error") == []
    assert losses(together) == pytest.approx(losses(alone), abs=1e-5)


@pytest.mark.parametrize(("visible", "used"), [(None, "0"), ("3,1", "3"), ("", "")])
def test_a_recipe_in_one_process_uses_one_gpu(tmp_path, monkeypatch, visible, used):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")  # restored afterwards
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(sys, "argv", ["recipe", str(tmp_path)])
    monkeypatch.setattr(StopSignal, "listen", lambda self: None)  # keep this process's handler
    calls = []
    run_recipe(lambda run_dir, stop: calls.append(os.environ["CUDA_VISIBLE_DEVICES"]), "")
    assert calls == [used]


def test_one_of_several_processes_sees_all_gpus_and_takes_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    processes.use_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_one_process_that_trainer_would_split_over_several_gpus_is_refused(tmp_path):
    run_dir = same_run(tmp_path, tiny_llama(tmp_path))
    two = SimpleNamespace(args=SimpleNamespace(world_size=1, n_gpu=2))
    with pytest.raises(RecipeError, match="2 GPUs are visible to one process"):
        train_to_the_end(two, run_dir)


def test_the_batch_size_that_fits_is_recorded_and_lowered_until_1(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    run_dir, tried = RunDir(tmp_path), []

    def attempt(micro_batch: int, accumulation: int) -> None:
        tried.append((micro_batch, accumulation))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def start(folder: RunDir) -> None:
        with_smaller_batches(attempt, batch_size=8, micro_batch_size=8, run_dir=folder)

    with pytest.raises(RestartRequired, match="with 4 examples at a time in process 2 of 2"):
        start(Part(run_dir, "one", "One", set()))
    with pytest.raises(RestartRequired, match="continues with 1 at a time"):
        start(Part(run_dir, "two", "Two", set()))
    with pytest.raises(RecipeError, match="even with one example at a time"):
        start(run_dir)
    assert tried == [(8, 1), (2, 4), (1, 8)]


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_recognised(error, memory):
    assert is_out_of_memory(error) is memory


def test_processes_that_are_not_connected_are_refused(tmp_path, monkeypatch):
    run_dir = same_run(tmp_path, tiny_llama(tmp_path))
    alone = SimpleNamespace(args=SimpleNamespace(world_size=1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="There are 2 processes, but they are not connected"):
        train_to_the_end(alone, run_dir)

"""Tests of `python -m benchmarks.gpu_check`: its frame, and its checks with tiny models on a CPU."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.support.gpu import checks as gpu_checks
from benchmarks.support.gpu import forecasts
from benchmarks.support.gpu.checks import Check, CheckFailed, demand
from benchmarks.support.gpu.world import WatchedRun, World
from tests.machines import install_smi

ROOT = Path(__file__).parents[3]


def check(name, run):
    return Check(name, "for a test", 1, run)


def fail(world):
    demand(False, "The loss is wrong.", {"loss": 3.0})


def crash(world):
    os._exit(7)


def sleep(world):
    time.sleep(60)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run checks with the command, and return its status, the printed lines and the summary."""

    def start(*checks, arguments=()):
        monkeypatch.setattr(gpu_check, "CHECKS", checks)
        status = gpu_check.main(["--tiny", "--folder", str(tmp_path / "var"), *arguments])
        *cases, summary = map(json.loads, capsys.readouterr().out.splitlines())
        return status, cases, summary

    return start


def test_each_check_prints_a_line_when_it_ends_and_the_last_line_has_all(run):
    status, cases, summary = run(check("one", lambda world: {"speed": 2}), check("two", fail))
    assert status == 1
    assert [(case["check"], case["ok"]) for case in cases] == [("one", True), ("two", False)]
    assert cases[0]["figures"] == {"speed": 2}
    assert cases[1]["error"] == "The loss is wrong." and cases[1]["figures"] == {"loss": 3.0}
    assert summary["cases"] == cases
    assert {"name", "commit", "hardware", "versions"} <= summary.keys()


def test_a_check_that_crashes_its_process_does_not_end_the_others(run):
    status, (crashed, after), _ = run(check("one", crash), check("two", lambda world: {}))
    assert status == 1
    assert crashed["ok"] is False and crashed["error"] == "The process ended with status 7."
    assert after["ok"] is True


def test_passed_checks_are_not_repeated_and_failed_ones_are(run, tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("")

    def count(world):
        counter.write_text(counter.read_text() + "x")
        return {}

    def then_pass(world):
        count(world)
        if len(counter.read_text()) < 3:
            raise CheckFailed("Not yet.", {})
        return {}

    checks = (check("passes", count), check("fails", then_pass))
    assert run(*checks)[0] == 1
    status, (first, second), _ = run(*checks)
    assert status == 0 and counter.read_text() == "xxx"
    assert first["resumed"] and "resumed" not in second
    run(*checks, arguments=["--restart"])
    assert counter.read_text() == "xxxxx"


def test_results_of_another_commit_are_not_reused(run, monkeypatch):
    item = check("one", lambda world: {})
    run(item)
    monkeypatch.setattr(gpu_check, "commit", lambda *paths: "another")
    assert "resumed" not in run(item)[1][0]


def test_checks_without_time_are_not_begun_and_do_not_fail(run):
    status, (case,), _ = run(check("one", sleep), arguments=["--minutes", "0.1"])
    assert status == 2
    assert case["ok"] is None and "no time left" in case["error"]


def test_a_check_that_takes_too_long_is_ended(run, monkeypatch):
    monkeypatch.setattr(gpu_check, "MIN_SECONDS", 0)
    began = time.monotonic()
    status, (case,), _ = run(check("one", sleep), arguments=["--minutes", "0.01"])
    assert status == 2 and "did not end within" in case["error"]
    assert time.monotonic() - began < 30


def test_without_a_gpu_only_the_tiny_checks_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_check.main(["--folder", str(tmp_path / "var")]) == 2
    assert "With --tiny, the checks run on the CPU" in capsys.readouterr().err


def test_the_list_names_every_check_with_its_time(capsys):
    assert gpu_check.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(check.name in printed for check in gpu_checks.CHECKS)
    *_, total = printed.splitlines()
    assert int(total.split()[-2]) <= 9 * 60


def test_a_forecast_that_misses_a_target_is_named():
    good = {"case": "dpo", "memory_error": -0.08, "time_error": 0.2}
    assert forecasts.problem_of([good]) == ""
    heavy = {**good, "case": "reward", "memory_error": 0.31}
    assert forecasts.problem_of([good, heavy]) == "The memory of reward differs by +31%."
    assert "time of dpo differs by -40%" in forecasts.problem_of([{**good, "time_error": -0.4}])


# --- the checks themselves --------------------------------------------------------------------------


@pytest.mark.slow
def test_all_checks_pass_with_tiny_models_on_the_cpu(tmp_path):
    names = [
        "machine",
        "layouts",
        "loop-0.5b",
        "mfu",
        "loop-8b-qlora",
        "grpo-0.5b",
        "rloo-0.5b-qlora",
    ]
    ended = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.gpu_check", "--tiny", "--minutes", "20",
            "--folder", str(tmp_path), "--only", *names,
        ],
        cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cases = {case["check"]: case for case in json.loads(ended.stdout.splitlines()[-1])["cases"]}
    assert list(cases) == names
    for name in ("loop-0.5b", "mfu", "loop-8b-qlora"):
        assert cases[name]["figures"]["step_0_loss"] == pytest.approx(math.log(2), abs=0.01)
    loop = cases["loop-0.5b"]["figures"]
    assert set(loop["seconds"]) == {"model", "generate", "reward", "dpo", "merge"}
    assert loop["merge_share"] < 0.05 and loop["groups"] > 4
    assert set(cases["loop-8b-qlora"]["figures"]["seconds"]) == {
        "model",
        "generate",
        "reward",
        "dpo",
    }
    for name in ("grpo-0.5b", "rloo-0.5b-qlora"):
        assert cases[name]["figures"]["steps"] == 4
    assert 0 < cases["mfu"]["figures"]["mfu"] < 1
    assert cases["layouts"]["figures"]["grad_diff_ours"] < 1e-4
    runs = {path.name for path in (tmp_path / "runs").iterdir()}
    assert {name for name in runs if name.startswith(("tiny-generate", "tiny-reward"))} == {
        "tiny-generate-0.5b", "tiny-reward-0.5b-none",  # the second by loop-0.5b, used by GRPO
        "tiny-generate-8b", "tiny-reward-8b-nf4", "tiny-reward-0.5b-nf4",
    }  # fmt: skip


def test_responses_of_an_earlier_check_are_used_again(tmp_path, monkeypatch):
    made = []

    def generate(run, stop):
        made.append(run.path.name)
        run.output.mkdir()

    monkeypatch.setattr(gpu_checks.generate, "generate", generate)
    monkeypatch.setattr(World, "model", lambda self, size: tmp_path)
    world = World(tmp_path, tiny=True)
    first = gpu_checks.responses(world, "0.5b")
    assert gpu_checks.responses(world, "0.5b").path == first.path
    assert made == ["tiny-generate-0.5b"]
    gpu_checks.responses(World(tmp_path, tiny=False), "0.5b")
    assert made == ["tiny-generate-0.5b", "generate-0.5b"]


def test_a_gpu_without_memory_fails_the_check_of_the_machine(monkeypatch, tmp_path):
    install_smi(monkeypatch, tmp_path, free_mb=10)
    monkeypatch.setattr(gpu_checks.checks.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_checks.checks, "device_of", lambda dtype: {"kind": "cuda"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(CheckFailed, match="would be refused") as failure:
        gpu_checks.check_machine(World(tmp_path, tiny=True))
    assert "no memory left" in failure.value.figures["problem"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"loss": 0.71}, "The loss of the first step is 0.017 from ln 2"),
        ({"late": 1}, "A kernel was compiled after step 3"),
        ({"loss": math.nan}, "from ln 2"),
        ({"peak": 50.0}, "The peak of memory was not reset"),
    ],
)
def test_a_wrong_figure_of_a_training_fails_the_check(monkeypatch, tmp_path, wrong, sentence):
    def train(run, stop):
        for step in range(1, 6):
            count = wrong.get("late", 0) if step > 3 else 0
            run.steps.append((step, float(step), count))
            run.losses[step] = wrong.get("loss", math.log(2)) if step == 1 else 0.5

    peaks = iter([100.0, wrong.get("peak", 300.0)])
    monkeypatch.setattr(gpu_checks.train, "train", train)
    monkeypatch.setattr(gpu_checks, "peak_mb", lambda: next(peaks))
    monkeypatch.setattr(gpu_checks, "reset_peak", lambda: None)
    report = {"training": {"memory_mb": 300.0}, "device": {}}
    monkeypatch.setattr(WatchedRun, "report", lambda self: report)
    monkeypatch.setattr(World, "model", lambda self, size: tmp_path)
    groups = gpu_checks.random_groups(4, k=3, prompt=8, response=8)
    with pytest.raises(CheckFailed, match=sentence):
        gpu_checks.tune(World(tmp_path, tiny=True), "0.5b", "none", groups=groups)


def test_the_operations_of_a_step_count_the_head_for_responses_only(tmp_path):
    folder = World(tmp_path, tiny=True).model("1.5b")
    chat = gpu_checks.PolicyChat(gpu_checks.load_tokenizer(str(folder)))

    def work_of(prompt):
        [group] = gpu_checks.random_groups(1, k=2, prompt=prompt, response=20)
        attended = gpu_checks.shared_work(gpu_checks.encoded(chat, group))[1]
        return gpu_checks.flops_of(folder, group, rank=2), attended

    (flops, attended), (more_flops, more_attended) = work_of(10), work_of(30)
    # Per layer: q and o 32 × 32, k and v 32 × 16, three matrices of 32 × 64; LoRA of rank 2 on each.
    frozen, lora, attention = 2 * 9216, 2 * 1024, 12 * 32 * 2
    tokens = 20 * (4 * frozen + 6 * lora) + attention * (more_attended - attended)
    assert more_flops - flops == tokens

"""Tests of the check at the start of a run, with GPUs that only nvidia-smi reports."""

import json
import os
import re
import sys
from dataclasses import replace

import pytest
import torch

from recipes.errors import RecipeError
from recipes.layout import attention
from recipes.layout.compiling import compile_layers
from recipes.machine import checks, gpus
from recipes.machine.checks import Machine, examine, problem_of, warnings_of
from recipes.machine.gpus import Gpu
from recipes.rundir import RunDir
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from tests.finetune.training.training_runs import messages
from tests.machines import GPU_MB, TEMPERATURE, USE, install_smi

H200 = Gpu("0", "GPU-aa0", "NVIDIA H200", GPU_MB, GPU_MB)
READY = Machine(
    installed=(H200,), visible="0", usable=True, toolkit="12.6", driver=(12, 8), lacking=()
)


# --- what the driver reports ------------------------------------------------------------------------


def test_the_driver_reports_gpus_and_its_cuda_version(monkeypatch, tmp_path):
    install_smi(monkeypatch, tmp_path, gpus=2, free_mb=500)
    assert gpus.installed() == [
        Gpu("0", "GPU-aa0", "NVIDIA H200", GPU_MB, 500, USE, TEMPERATURE),
        Gpu("1", "GPU-aa1", "NVIDIA H200", GPU_MB, 500, USE, TEMPERATURE),
    ]
    assert gpus.driver_cuda() == (12, 8)


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.installed() == [] and gpus.driver_cuda() is None


@pytest.mark.parametrize(
    "body", ["exit 9", "echo 'No devices were found'", "echo '0, GPU-a, X, Y'"]
)
def test_an_answer_of_the_driver_that_lists_no_gpus_means_none(monkeypatch, tmp_path, body):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{body}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus.installed() == [] and gpus.driver_cuda() is None


def test_memory_that_the_driver_does_not_know_is_accepted(monkeypatch, tmp_path):
    install_smi(monkeypatch, tmp_path, free_mb="[N/A]")
    [gpu] = gpus.installed()
    assert gpu.free_mb is None
    assert problem_of(replace(READY, installed=(gpu,))) is None
    assert warnings_of(replace(READY, installed=(gpu,))) == []


# --- problems and warnings --------------------------------------------------------------------------


def test_a_machine_that_is_ready_causes_no_message():
    assert problem_of(READY) is None and warnings_of(READY) == []
    without = Machine((), None, usable=False, toolkit=None, driver=None, lacking=("gcc",))
    assert problem_of(without) is None and warnings_of(without) == []


@pytest.mark.parametrize("free", [0, checks.LEAST_FREE_MB - 1])
def test_a_gpu_without_memory_is_refused_with_its_free_memory(free):
    full = replace(READY, installed=(replace(H200, free_mb=free),))
    problem = problem_of(full)
    assert f"GPU 0 (NVIDIA H200) has no memory left: {free:,} of 143,771 MB are free" in problem


def test_a_gpu_that_other_programs_use_causes_a_warning():
    busy = replace(READY, installed=(replace(H200, free_mb=GPU_MB // 3),))
    assert problem_of(busy) is None
    [warning] = warnings_of(busy)
    assert warning.startswith("Other programs use most of the memory of GPU 0")


@pytest.mark.parametrize(
    ("visible", "rank", "problem"),
    [
        ("0", 0, True), ("1", 0, False), ("1,0", 1, True), ("1,0", 0, False), (None, 0, True),
        (None, 1, False), ("GPU-aa0", 0, True), ("GPU-aa1", 0, False), ("7", 0, False),
        ("0", 3, False),
    ],
)  # fmt: skip
def test_only_the_memory_of_the_gpu_of_the_process_is_checked(visible, rank, problem):
    full, free = replace(H200, free_mb=0), replace(H200, index="1", uuid="GPU-aa1")
    sentence = problem_of(replace(READY, installed=(full, free), visible=visible), rank)
    assert (sentence is not None) is problem


def test_a_driver_older_than_torch_is_refused_with_both_versions():
    old = replace(READY, usable=False, driver=(11, 8))
    assert "supports CUDA 11.8, and the installed torch needs CUDA 12.6" in problem_of(old)
    assert problem_of(replace(old, visible="")) is None  # the user wants the CPU
    minor = replace(READY, usable=False, driver=(12, 2))
    assert problem_of(minor) is None  # minor versions are compatible


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"visible": ""}, "CUDA_VISIBLE_DEVICES is empty"),
        ({"visible": "-1"}, "CUDA_VISIBLE_DEVICES is empty"),
        ({"toolkit": None}, "torch is built for the CPU only"),
        ({"visible": "9"}, r"CUDA_VISIBLE_DEVICES \(9\)"),
        ({"visible": None}, r"CUDA_VISIBLE_DEVICES \(not set\)"),
    ],
)
def test_a_gpu_that_is_not_used_causes_a_warning_with_the_reason(changes, reason):
    [warning] = warnings_of(replace(READY, usable=False, **changes))
    assert "uses the CPU, although this machine has a GPU (NVIDIA H200)" in warning
    assert re.search(reason, warning)


def test_a_missing_compiler_is_reported_at_the_start():
    [warning] = warnings_of(replace(READY, lacking=("a C compiler (install gcc, or set CC)",)))
    assert "Triton cannot compile kernels, because it needs a C compiler" in warning


def test_the_compiler_of_the_path_or_of_cc_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert checks.missing_for_triton()[0].startswith("a C compiler")
    compiler = tmp_path / "my-cc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert not any("compiler" in part for part in checks.missing_for_triton())
    monkeypatch.delenv("CC")
    compiler.rename(tmp_path / "gcc")
    assert not any("compiler" in part for part in checks.missing_for_triton())


def test_missing_headers_of_python_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(checks.sysconfig, "get_path", lambda name: str(tmp_path))
    assert any("Python.h (install python3-dev)" in part for part in checks.missing_for_triton())


def test_flex_attention_without_a_compiler_is_refused_before_training(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)

    class Base:
        class config:
            _attn_implementation = "sdpa"

            @classmethod
            def get_text_config(cls):
                return cls

    with pytest.raises(RecipeError, match="FlexAttention and compiled layers need a C compiler"):
        attention.set_attention(Base(), "cuda")


def test_compiled_layers_on_a_gpu_without_a_compiler_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RecipeError, match="need a C compiler"):
        compile_layers(torch.nn.ModuleList([torch.nn.Linear(2, 2)]))


# --- at the start of a run --------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a recipe that only records its device, and return its status and its run directory."""
    monkeypatch.setattr(StopSignal, "listen", lambda self: None)  # keep this process's handler
    monkeypatch.setenv(gpus.VISIBLE, os.environ.get(gpus.VISIBLE, ""))  # restored afterwards

    def start(*, visible="", uses_gpu=True, **config):
        run_dir = RunDir.create(tmp_path / "run", {"kind": "test", "config": config})
        monkeypatch.setenv(gpus.VISIBLE, visible)
        monkeypatch.setattr(sys, "argv", ["recipe", str(run_dir.path)])
        status = run_recipe(lambda run_dir, stop: None, "", uses_gpu=uses_gpu)
        return status, run_dir

    return start


def test_every_run_reports_its_device_and_number_format(run):
    status, run_dir = run(dtype="bfloat16")
    assert status == 0
    assert messages(run_dir) == ["Device: CPU. Number format: bfloat16."]


def test_a_run_reports_an_unused_gpu(run, monkeypatch, tmp_path):
    install_smi(monkeypatch, tmp_path)
    status, run_dir = run()
    assert status == 0
    [warning] = messages(run_dir, "warning")
    assert "uses the CPU, although this machine has a GPU (NVIDIA H200)" in warning
    assert messages(run_dir) == ["Device: CPU. Number format: float32."]


def test_a_run_that_needs_no_gpu_does_not_warn_and_hides_the_gpus(run, monkeypatch, tmp_path):
    install_smi(monkeypatch, tmp_path)
    status, run_dir = run(visible="0", uses_gpu=False)
    assert status == 0 and messages(run_dir, "warning") == []
    assert os.environ[gpus.VISIBLE] == ""


def test_a_run_with_a_driver_that_is_too_old_ends_before_it_begins(run, monkeypatch, tmp_path):
    install_smi(monkeypatch, tmp_path, cuda="11.4")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    status, run_dir = run(visible="0")
    assert status == 1
    [error] = messages(run_dir, "error")
    assert "supports CUDA 11.4, and the installed torch needs CUDA 13.0" in error


def test_an_unknown_number_format_is_left_to_the_recipe(run):
    status, run_dir = run(dtype="int3")
    assert status == 0 and messages(run_dir) == []


def test_examine_returns_the_facts_of_this_machine(monkeypatch, tmp_path):
    install_smi(monkeypatch, tmp_path, gpus=3)
    monkeypatch.setenv(gpus.VISIBLE, "1")
    facts = examine()
    assert len(facts.installed) == 3 and facts.visible == "1" and facts.driver == (12, 8)
    assert facts.usable == torch.cuda.is_available() and facts.toolkit == torch.version.cuda


def test_the_device_of_a_report_can_be_written_as_json():
    device = checks.device_of("float32")
    assert json.loads(json.dumps(device))["dtype"] == "float32"
    several = {"kind": "cuda", "name": "NVIDIA H200", "count": 4, "dtype": "bfloat16"}
    assert checks.sentence_about(several) == "Device: 4 × NVIDIA H200. Number format: bfloat16."

"""Tests of what a run does once, of its memory, its adapters, and of equal runs by other means."""

import json
import math
import os
import random
import socket
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.methods.dpo import DPOSettings
from finetune.report import FinetuneReport
from finetune.training.fitting import reference, trainer
from finetune.training.fitting.trainer import PolicyTrainer, with_token_limit
from finetune.training.models import policy
from finetune.training.models.policy import PolicyModel, recomputes
from finetune.training.train import train
from recipes.errors import RecipeError
from recipes.preferences.groups import Group, Judgment
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from recipes.training.checkpoints import problem_of
from runs.supervision import child
from tests.finetune.training.training_runs import (
    apart,
    dpo_run,
    groups_that_like_b,
    lined_groups,
    messages,
    progress,
    ranked_group,
    report_of,
    user,
    weights_of,
)
from tests.forks import Program
from tests.schema import differences
from tests.tiny import make_model

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[3]


def finished(path, model, groups=None, **config):
    run_dir = dpo_run(path, model, groups or groups_that_like_b(16), **{"epochs": 2, **config})
    train(run_dir, StopSignal())
    return run_dir


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model):
    """Run once with all defaults of the layout; other tests compare with it."""
    return finished(tmp_path_factory.mktemp("runs") / "whole", model)


# --- the report -------------------------------------------------------------------------------------


def test_the_report_has_the_declared_shape(whole):
    report = report_of(whole)
    assert differences(report, FinetuneReport) == []
    training = report["training"]
    assert (training["layout"], training["packed"], training["attention"]) == (
        "shared", True, "pieces",
    )  # fmt: skip
    assert (training["head"], training["head_reason"], training["recomputes"]) == (
        "in parts", None, False,
    )  # fmt: skip


def test_held_out_prompts_without_a_strict_judgment_have_no_accuracy(tmp_path, model):
    """Check prompts whose responses are tied: no accuracy, not one of 0, only the likelihood."""
    tied = [ranked_group(f"t{n}", ["a", "b"], [[0, 1]], split="test") for n in range(3)]
    run_dir = finished(tmp_path / "run", model, [*groups_that_like_b(8, every_test=100)[1:], *tied])
    assert report_of(run_dir)["held_out"].keys() == {"nll"}
    assert report_of(run_dir)["accuracy"]["value"] is None
    watched = [name for e in progress(run_dir) for name in e.get("metrics", {})]
    assert {name for name in watched if name.startswith("held_out/")} == {"held_out/nll"}


# --- one trajectory ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"packing": "never"},
        {"layout": "plain"},
        {"micro_batch_size": 1},
        {"tokens_at_once": 60},
        {"gradient_checkpointing": "on"},
    ],
    ids=str,
)
def test_settings_of_memory_and_speed_do_not_change_the_weights(tmp_path, model, whole, settings):
    run_dir = finished(tmp_path / "run", model, **settings)
    assert apart(run_dir, whole) < 1e-4
    name = next(iter(settings))
    assert report_of(run_dir)["config"][name] != report_of(whole)["config"][name]


def launch_two(module: str, run_dir: RunDir) -> subprocess.Popen:
    """Start two processes with the command of a supervisor that has two GPUs."""
    command = child.command_for(module, run_dir.path, gpus=2)
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def free_port() -> int:
    """Return a free port below those that the system gives to servers and connections of tests."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def start_two(module: str, run_dir: RunDir) -> list[Program]:
    """Start two processes with the variables that the launcher sets."""
    shared = {
        **os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    ranks = [{"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    return [Program(module, run_dir.path, variables=shared | rank) for rank in ranks]


@pytest.mark.parametrize("method", ["dpo", "sft", "kto"])
def test_two_processes_give_the_same_run_as_one(tmp_path, model, monkeypatch, method):
    """Check 13 prompts in steps of 6, so that one process has no prompt in the last step."""
    groups = (lined_groups if method == "kto" else groups_that_like_b)(17)
    config = {"batch_size": 6, "micro_batch_size": 3, "epochs": 3, "method": method}
    alone = dpo_run(tmp_path / "a" / "alone", model, groups, **config)
    together = dpo_run(tmp_path / "b" / "together", model, groups, **config)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    programs = (
        start_two("finetune.training.train", together)
        if method != "dpo"
        else [launch_two("finetune.training.train", together)]
    )
    train(alone, StopSignal())
    assert [program.wait(180) for program in programs] == [0] * len(programs)
    first, second = report_of(alone), report_of(together)
    assert (first["training"]["processes"], second["training"]["processes"]) == (1, 2)
    assert first["training"]["reference_computed"] == second["training"]["reference_computed"]
    assert method != "dpo" or first["training"]["reference_computed"] == 51
    for (step, ours), (other, theirs) in zip(
        first["training"]["curve"], second["training"]["curve"], strict=True
    ):
        assert step == other and ours == pytest.approx(theirs, abs=1e-5)
    assert apart(alone, together) < 1e-5


def test_the_limit_on_tokens_per_forward_pass_depends_on_the_machine(monkeypatch):
    config = DPOSettings(model="m")
    assert with_token_limit(config).tokens_at_once == 512
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert with_token_limit(config).tokens_at_once == 8192
    assert with_token_limit(replace(config, tokens_at_once=50)).tokens_at_once == 50


# --- what is done once ------------------------------------------------------------------------------


def test_a_second_run_on_the_same_responses_computes_no_reference(tmp_path, model, whole):
    first = finished(tmp_path / "1", model)
    second = finished(tmp_path / "2", model, beta=0.3)
    assert report_of(first)["training"]["reference_computed"] == 48
    assert report_of(second)["training"]["reference_computed"] == 0
    assert report_of(second)["training"]["curve"][0][1] == pytest.approx(math.log(2), abs=1e-5)
    more = [*groups_that_like_b(16), ranked_group("new", ["b", "a"], [[0], [1]])]
    third = finished(tmp_path / "3", model, more)
    assert report_of(third)["training"]["reference_computed"] == 2
    assert apart(first, whole) == 0


def test_another_model_or_number_format_has_another_reference(tmp_path, model):
    finished(tmp_path / "1", model)
    other = make_model(tmp_path / "model", seed=3)
    for number, (base, dtype) in enumerate([(other, "float32"), (model, "bfloat16")]):
        run_dir = finished(tmp_path / f"other-{number}", base, dtype=dtype)
        assert report_of(run_dir)["training"]["reference_computed"] == 48
    assert len(list((tmp_path / ".reference").glob("*.npz"))) == 3


def test_a_damaged_reference_is_computed_again(tmp_path, model):
    first = finished(tmp_path / "1", model)
    [cache] = (tmp_path / ".reference").glob("*.npz")
    cache.write_bytes(cache.read_bytes()[:-10] + b"0123456789")
    second = finished(tmp_path / "2", model)
    assert any("damaged" in text for text in messages(second, "warning"))
    assert report_of(second)["training"]["reference_computed"] == 48
    assert apart(first, second) == 0
    assert problem_of(cache) is None


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, model, monkeypatch):
    def refused(self):
        raise PermissionError("read-only")

    monkeypatch.setattr(reference.ReferenceCache, "_locked", refused)
    assert report_of(finished(tmp_path / "1", model))["training"]["reference_computed"] == 48


def test_out_of_memory_neither_loads_the_model_nor_computes_the_reference_again(
    tmp_path, model, monkeypatch, whole
):
    loads, passes = [], []
    real_load, real_pass = policy._read_base, trainer.reference_logps
    monkeypatch.setattr(policy, "_read_base", lambda *a: loads.append(1) or real_load(*a))
    monkeypatch.setattr(trainer, "reference_logps", lambda *a: passes.append(1) or real_pass(*a))
    real = PolicyTrainer.training_step

    def small_memory(self, *args, **kwargs):
        if self.data_collator.most > 1 and self.state.global_step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(PolicyTrainer, "training_step", small_memory)
    run_dir = finished(tmp_path / "run", model, checkpoint_steps=100)
    assert (len(loads), len(passes)) == (1, 1)
    assert [text.split(";")[0] for text in messages(run_dir, "warning")] == [
        f"Out of memory with {n} examples at a time" for n in (4, 2)
    ]
    assert (
        apart(run_dir, whole) < 1e-5
    )  # without a checkpoint, it starts from the untrained adapter


def test_a_run_that_does_not_fit_fails_before_its_first_step(tmp_path, model, monkeypatch):
    """Check memory for 60 tokens: the longest prompt has more, and is in no early step."""
    real = PolicyModel.forward

    def small_memory(self, input_ids, **batch):
        if self.training and input_ids.numel() > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, input_ids, **batch)

    monkeypatch.setattr(PolicyModel, "forward", small_memory)
    long = Group("long", user("x" * 60), [0, 1], ["b" * 90, "a"], [Judgment("r", [[0], [1]])])
    run_dir = dpo_run(tmp_path / "run", model, [*groups_that_like_b(16), long], epochs=20)
    with pytest.raises(RecipeError, match="even with one example at a time"):
        train(run_dir, StopSignal())
    assert not progress(run_dir)


# --- adapters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_other_kinds_of_lora_are_trained_and_saved(tmp_path, model, variant):
    run_dir = finished(tmp_path / "run", model, lora_variant=variant)
    settings = json.loads((run_dir.output / "adapter_config.json").read_text())
    assert settings[f"use_{variant}"] is True
    report = report_of(run_dir)
    assert report["training"]["curve"][0][1] == pytest.approx(math.log(2), abs=1e-4)
    assert report["held_out"]["margins"] > 0
    assert any("magnitude" in name for name in weights_of(run_dir.output)) is (variant == "dora")


def test_a_run_continues_from_an_adapter_and_stays_close_to_it(tmp_path, model, whole):
    run_dir = finished(
        tmp_path / "run", model, adapter=str(whole.output), lora_r=64, learning_rate=1e-4
    )
    report = report_of(run_dir)
    assert report["adapter"] == str(whole.output)
    assert report["training"]["curve"][0][1] == pytest.approx(math.log(2), abs=1e-5)
    assert report["training"]["reference_computed"] == 48
    assert json.loads((run_dir.output / "adapter_config.json").read_text())["r"] == 4
    assert 0 < apart(run_dir, whole) < 0.02
    start = weights_of(whole.output)
    assert all(weight.abs().sum() > 0 for name, weight in start.items() if "lora_B" in name)


def test_large_models_recompute_activations_by_default(monkeypatch):
    class Config:
        gradient_checkpointing = "auto"

    layer = torch.nn.Linear(10, 10)
    assert not recomputes(Config, layer)
    monkeypatch.setattr(policy, "LARGE", 100)
    assert recomputes(Config, layer)
    Config.gradient_checkpointing = "off"
    assert not recomputes(Config, layer)


# --- options ----------------------------------------------------------------------------------------


def test_without_a_reference_the_score_is_the_log_probability(tmp_path, model):
    """Check that the train split needs no reference, and the first loss is not ln 2."""
    run_dir = finished(tmp_path / "run", model, reference_free=True)
    report = report_of(run_dir)
    assert report["training"]["reference_computed"] == 12
    assert abs(report["training"]["curve"][0][1] - math.log(2)) > 0.01


def test_the_weight_of_the_best_response_keeps_it_likely(tmp_path, model):
    chosen = {}
    for weight in (0.0, 3.0):
        run_dir = finished(tmp_path / str(weight), model, sft_weight=weight, epochs=4)
        chosen[weight] = report_of(run_dir)["held_out"]["chosen"]
    assert chosen[3.0] > chosen[0.0]


def test_ties_are_a_separate_outcome_on_request(tmp_path, model):
    """Check one tie in three comparisons: all outcomes begin at ⅓, so the first loss is ln 3."""
    rng = np.random.default_rng(0)
    groups = [
        ranked_group(f"g{n}", ["".join(rng.choice(["a", "b"], 8)) for _ in range(3)], [[0, 1], [2]])
        for n in range(16)
    ]
    runs = {
        ties: finished(tmp_path / ties, model, groups, ties=ties)
        for ties in ("half", "davidson", "rao_kupper")
    }
    losses = {ties: report_of(run)["training"]["curve"][0][1] for ties, run in runs.items()}
    assert losses["half"] == pytest.approx(math.log(2), abs=1e-5)
    assert losses["davidson"] == pytest.approx(math.log(3), abs=2e-4)
    assert losses["rao_kupper"] == pytest.approx(losses["davidson"], abs=1e-5)
    assert apart(runs["davidson"], runs["rao_kupper"]) > 1e-4

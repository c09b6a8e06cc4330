"""Tests of rehearsals with tiny models. They run the real recipes."""

import json
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest
from safetensors import safe_open

from finetune.methods.dpo import DPOSettings
from recipes.errors import RecipeError
from recipes.preferences.groups import Group, Judgment, write_groups
from recipes.preflight import sample
from recipes.preflight.forecast import forecast
from recipes.preflight.measuring import Sources, depths, measure, prompts_of, settings_of
from recipes.preflight.rehearsal import DoesNotFit, MeteredRunDir, in_own_process, rehearse
from recipes.preflight.shortening import number_of_layers, shorten
from recipes.rundir import RunDir
from tests import tiny

PROGRAM = "finetune.training.train"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "base"
    return tiny.make_model(folder, "qwen2", num_hidden_layers=6, vocab_size=280)


def group(number: int, length: int, split: str = "train") -> Group:
    responses = [f"{number} good" + "x" * length, f"{number} bad"]
    return Group(
        str(number),
        [{"role": "user", "content": "Why?"}],
        [0, 1],
        responses,
        [Judgment("anna", [[0], [1]])],
        split=split,
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Let rehearsals compute with one thread, as tiny models are slower with several."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run_dir(tmp_path, model) -> RunDir:
    config = DPOSettings.from_dict({"model": str(model), "batch_size": 4, "micro_batch_size": 2})
    run_dir = RunDir.create(tmp_path / "run", {"kind": "dpo", "config": config.to_dict()})
    groups = [group(n, 10 * n) for n in range(20)] + [group(99, 5, "test")]
    write_groups(run_dir.data / "preferences.parquet", groups)
    (run_dir.path / "rehearsals").mkdir()
    return run_dir


def test_a_run_is_forecast_from_rehearsals_with_fewer_layers(run_dir):
    measured = measure(run_dir, PROGRAM, run_dir.path / "rehearsals")
    assert [r.layers for r in measured.rehearsals] == [2, 4]
    assert measured.layers == 6
    assert (measured.whole.train_prompts, measured.part.train_prompts) == (20, 16)
    assert (measured.whole.test_prompts, measured.part.test_prompts) == (1, 1)
    assert measured.on_train  # DPO reads the reference of training prompts
    result = forecast(measured, "dpo", run_dir.spec()["config"])
    assert result.fits and result.device == "CPU"
    assert 0 < result.increment_mb < result.memory_mb
    assert {"Training", "Loading the model"} <= dict(result.parts).keys()


def test_a_run_that_would_fail_is_refused_with_its_reason(run_dir):
    groups = [group(1, 10, "test")]
    write_groups(run_dir.data / "preferences.parquet", groups)
    with pytest.raises(RecipeError, match="nothing to train on"):
        measure(run_dir, PROGRAM, run_dir.path / "rehearsals")


def test_the_longest_prompts_that_fit_are_rehearsed(run_dir, model):
    groups, whole, part = sample.choose(
        run_dir.data, str(model), 150, longest=2, count=4, held_out=1, only_prompts=False
    )
    tokens = [len(f"<|user|>Why?<|end|>{n} good{n * 'xxxxxxxxxx'}") for n in range(20)]
    assert max(tokens) > 150  # some prompts do not fit
    assert [g.group_id for g in groups[:2]] == ["13", "12"]
    assert "19" not in {g.group_id for g in groups if len(g.responses) == 2}
    assert part.train_prompts == 4
    assert whole.longest_tokens == part.longest_tokens == 152  # both responses


def test_a_shorter_model_has_the_first_layers_and_the_head(model, tmp_path):
    shorten(model, tmp_path / "short", 2, of=6)
    assert number_of_layers(tmp_path / "short") == 2
    config = json.loads((tmp_path / "short" / "config.json").read_text())
    assert len(config["layer_types"]) == 2
    with (
        safe_open(model / "model.safetensors", "pt") as whole,
        safe_open(tmp_path / "short" / "model.safetensors", "pt") as short,
    ):
        missing = set(whole.keys()) - set(short.keys())
        assert {name.split(".")[2] for name in missing} == {"2", "3", "4", "5"}
        name = "model.layers.1.mlp.up_proj.weight"
        assert (short.get_tensor(name) == whole.get_tensor(name)).all()


@pytest.mark.parametrize(
    ("layers", "on_gpu", "expected"),
    [
        (3, False, (3,)),
        (3, True, (3,)),
        (30, False, (7, 15)),
        (6, False, (2, 4)),
        (32, True, (2, 4)),
    ],
)
def test_depths_of_rehearsals(layers, on_gpu, expected):
    assert depths(layers, on_gpu=on_gpu) == expected


def test_a_rehearsal_keeps_what_decides_the_memory(tmp_path):
    config = DPOSettings.from_dict({"model": "m", "batch_size": 64, "epochs": 3}).to_dict()
    sources = Sources(tmp_path, None, 30, large=True)
    changed = settings_of(config, sources, tmp_path)
    assert changed["gradient_checkpointing"] == "on"  # auto, as the model is large
    assert (changed["micro_batch_size"], changed["batch_size"]) == (4, 8)
    assert (changed["epochs"], changed["evaluations"]) == (1, 0)
    assert changed["max_length"] == config["max_length"]


def test_prompts_of_a_sampling_method_fill_a_batch_of_the_sampler():
    settings = {"micro_batch_size": 4, "batch_size": 16, "samples_per_prompt": 1}
    assert prompts_of({**settings, "sampling_batch_size": 64}) == 64
    assert prompts_of({**settings, "sampling_batch_size": 8}) == 32


def test_each_stage_has_its_own_peak_and_time(tmp_path):
    path = RunDir.create(tmp_path / "run", {}).path

    def stages() -> dict:
        now = iter([0.0, 3.0, 3.0, 10.0, 10.0])
        run_dir = MeteredRunDir(path, lambda: next(now))
        run_dir.stage("Round 1 of 2: Scoring 8 prompts")
        large = bytearray(b"x" * (64 << 20))
        del large
        run_dir.mark("")
        return run_dir.phases

    phases = in_own_process(stages)
    assert phases["Starting"].seconds == 3
    assert phases["Scoring prompts"].seconds == 7
    assert phases["Scoring prompts"].peak_mb >= phases["Starting"].peak_mb + 60


def test_training_goes_on_after_sample_prompts_are_answered(tmp_path):
    path = RunDir.create(tmp_path / "run", {}).path

    def stages() -> dict:
        now = iter([0.0, 1.0, 1.0, 3.0, 3.0, 6.0, 6.0, 10.0, 15.0, 15.0])
        run_dir = MeteredRunDir(path, lambda: next(now))
        run_dir.stage("Training")  # at 1
        run_dir.stage("Answering sample prompts")  # at 3
        run_dir.emit("samples", answers=[])  # at 6
        run_dir.emit("progress", step=2)  # at 10
        run_dir.mark("")  # at 15
        return {name: phase.seconds for name, phase in run_dir.phases.items()}

    expected = {"Starting": 1, "Training": 2 + 4, "Answering sample prompts": 3, "Saving": 5}
    assert in_own_process(stages) == expected


def test_a_step_before_sample_prompts_are_answered_is_training_rather_than_saving(tmp_path):
    path = RunDir.create(tmp_path / "run", {}).path

    def stages() -> dict:
        now = iter([0.0, 1.0, 1.0, 2.0, 5.0, 5.0, 6.0, 6.0, 7.0, 9.0, 9.0])
        run_dir = MeteredRunDir(path, lambda: next(now))
        run_dir.stage("Training")  # at 1
        run_dir.emit("progress", step=1)  # at 2
        run_dir.stage("Answering sample prompts")  # at 5, at the end of step 2
        run_dir.emit("samples", answers=[])  # at 6
        run_dir.emit("progress", step=2)  # at 7
        run_dir.mark("")  # at 9
        return {name: phase.seconds for name, phase in run_dir.phases.items()}

    expected = {"Starting": 1, "Training": 4 + 1, "Answering sample prompts": 1, "Saving": 2}
    assert in_own_process(stages) == expected


def test_the_memory_of_the_imports_includes_shared_libraries(tmp_path, monkeypatch):
    """A forked process has less resident memory than the one that read the libraries from the disk."""
    path = RunDir.create(tmp_path / "run", {}).path
    recipe = ModuleType("a_recipe")
    recipe.RECIPE = lambda run_dir, stop: None
    monkeypatch.setitem(sys.modules, "a_recipe", recipe)
    mine = psutil.Process().memory_info().rss / 2**20
    _, imported_mb = in_own_process(rehearse, path, "a_recipe")
    assert imported_mb == pytest.approx(mine, rel=0.05)


def test_a_process_that_is_killed_did_not_fit():
    def die() -> None:
        import os

        os.kill(os.getpid(), 9)

    with pytest.raises(DoesNotFit, match="memory ran out"):
        in_own_process(die)


def test_out_of_memory_is_distinguished_from_other_errors():
    def exhausted() -> None:
        raise MemoryError

    def failed() -> None:
        raise RecipeError("The model cannot be loaded.")

    with pytest.raises(DoesNotFit):
        in_own_process(exhausted)
    with pytest.raises(RecipeError, match="cannot be loaded"):
        in_own_process(failed)

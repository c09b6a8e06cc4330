"""Tests of DPO: its pairs, its results, and resuming."""

import json
import math
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune.training.fitting import trainer as recipe
from finetune.training.models.language_model import (
    PolicyChat,
    add_adapter,
    load_model,
    load_tokenizer,
)
from finetune.training.train import train
from recipes.errors import RecipeError
from recipes.rundir import STOPPED
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from recipes.training.callbacks import newest_checkpoint
from tests.finetune.training.training_runs import (
    apart,
    dpo_run,
    groups_that_like_b,
    interrupt_when,
    messages,
    progress,
    ranked_group,
    report_of,
    results,
    start,
    weights_of,
)
from tests.tiny import make_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model):
    """Run DPO once for several tests."""
    run_dir = dpo_run(
        tmp_path_factory.mktemp("dpo") / "run",
        model,
        groups_that_like_b(32),
        epochs=3,
        evaluations=2,
    )
    train(run_dir, StopSignal())
    return run_dir


# --- learning ---------------------------------------------------------------------------------------


def test_a_run_learns_the_preferences_of_reviewers(finished):
    report = report_of(finished)
    assert report["accuracy"]["value"] > 0.75
    assert report["accuracy"]["interval"][0] > 0.5
    assert report["training"]["final_loss"] < 0.65
    assert report["held_out"]["margins"] > 0


def test_the_first_loss_is_that_of_a_model_equal_to_its_reference(finished):
    """Check that the first loss is -log σ(0) = ln 2, which requires an identical reference."""
    step, loss = report_of(finished)["training"]["curve"][0]
    assert (step, loss) == (1, pytest.approx(math.log(2), abs=1e-5))


def test_the_adapter_alone_reproduces_the_reported_accuracy(finished, model):
    """Load the adapter with plain PEFT, and compute the implicit rewards directly."""
    tokenizer = load_tokenizer(str(model))
    base, tuned = load_model(str(model), "float32"), load_model(str(model), "float32")
    tuned = add_adapter(tuned, str(finished.output))
    chat = PolicyChat(tokenizer)

    def logp(policy, prompt, response):
        ids = torch.tensor([[*prompt.tolist(), *response.tolist()]])
        with torch.no_grad():
            logps = policy(ids).logits[0, :-1].log_softmax(-1)
        return logps.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item()

    right = total = 0
    margins = []
    for group in groups_that_like_b(32):
        if group.split == "train":
            continue
        prompt, responses = chat.encode(group.prompt, group.responses)
        rewards = [0.1 * (logp(tuned, prompt, r) - logp(base, prompt, r)) for r in responses]
        order = [tier[0] for tier in group.rankings[0].tiers]
        for better in range(3):
            for worse in range(better + 1, 3):
                margin = rewards[order[better]] - rewards[order[worse]]
                margins.append(margin)
                right += margin > 0
                total += 1
    report = report_of(finished)
    assert report["accuracy"]["value"] == pytest.approx(right / total)
    assert report["held_out"]["margins"] == pytest.approx(np.mean(margins), abs=1e-4)


def test_the_report_counts_pairs_and_prompts(finished):
    report = report_of(finished)
    assert report["pairs"] == {"train": 72, "test": 24}
    assert report["prompts"] == {"train": 24, "test": 8}
    assert report["data"]["train"] == {"prompts": 24, "responses": 72, "pairs": 72, "rankings": 24}
    assert report["training"]["steps"] == 9
    assert report["training"]["reference_computed"] == 96
    assert results(finished)[-1]["accuracy"]["value"] == report["accuracy"]["value"]


def test_the_first_batch_is_shown_as_the_model_read_it(finished):
    text = report_of(finished)["first_batch"]
    assert "<|user|>Question g" in text
    assert text.count("[prompt") == 4 and text.count("[response") == 12
    assert "wins 2, losses 0]" in text


def metrics_of(event) -> dict:
    return event.get("metrics", {})


def test_progress_contains_the_curves(finished):
    events = progress(finished)
    assert {e["total"] for e in events} == {9}
    steps = [e for e in events if "train_agreement" in metrics_of(e)]
    assert [e["step"] for e in steps] == list(range(1, 10))
    assert {"grad_norm", "learning_rate"} <= steps[0]["metrics"].keys()
    assert steps[5]["tokens_per_s"] > 0
    assert steps[5]["memory_mb"] > 0
    assert [e["step"] for e in events if "held_out/accuracy" in metrics_of(e)] == [5, 9]
    watched = [e for e in events if "held_out/accuracy" in metrics_of(e)]
    assert watched[-1]["metrics"]["held_out/accuracy"] == report_of(finished)["accuracy"]["value"]


def test_the_output_is_an_adapter_that_other_tools_can_load(finished, model):
    names = {path.name for path in finished.output.iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "README.md",
    } <= names
    assert not [name for name in names if name.endswith((".bin", ".pt"))]
    settings = json.loads((finished.output / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(model)
    assert settings["r"] == 4
    assert "arXiv:2305.18290" in (finished.output / "README.md").read_text()


@pytest.mark.parametrize("family", ["opt", "gpt2", "gemma", "qwen3"])
def test_any_family_starts_equal_to_its_reference(tmp_path, family):
    """Check that dropout is off, also in OPT, which applies it without a module."""
    other = make_model(tmp_path / family, family)
    run_dir = dpo_run(tmp_path / "run", other, groups_that_like_b(8), evaluations=0)
    train(run_dir, StopSignal())
    assert report_of(run_dir)["training"]["curve"][0][1] == pytest.approx(math.log(2), abs=1e-5)


# --- interruptions ----------------------------------------------------------------------------------

INTERRUPTED = {"epochs": 3, "checkpoint_steps": 2, "evaluations": 0}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, model):
    run_dir = dpo_run(
        tmp_path_factory.mktemp("whole"), model, groups_that_like_b(32), **INTERRUPTED
    )
    train(run_dir, StopSignal())
    return run_dir


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, model, uninterrupted):
    run_dir = dpo_run(tmp_path, model, groups_that_like_b(32), **INTERRUPTED)
    process = start("finetune.training.train", run_dir)
    checkpoint = run_dir.checkpoints / "checkpoint-4"
    assert interrupt_when(process, checkpoint, signal.SIGKILL) == -signal.SIGKILL
    assert not run_dir.output.exists()
    resumed_from = newest_checkpoint(run_dir).name
    train(run_dir, StopSignal())
    assert f"Resuming from {resumed_from}." in messages(run_dir)
    assert apart(run_dir, uninterrupted) < 1e-5
    assert report_of(run_dir)["accuracy"] == report_of(uninterrupted)["accuracy"]


def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_and_exits_with_75(
    tmp_path, model, uninterrupted, monkeypatch
):
    run_dir = dpo_run(tmp_path, model, groups_that_like_b(32), **INTERRUPTED)
    real = recipe.PolicyTrainer.training_step

    def asked_in_step_6(self, *args, **kwargs):
        if self.state.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path)])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(recipe.PolicyTrainer, "training_step", asked_in_step_6)
            assert run_recipe(train, "") == STOPPED
    finally:
        signal.signal(signal.SIGTERM, before)
    assert newest_checkpoint(run_dir).name == "checkpoint-6"
    assert not run_dir.output.exists()
    train(run_dir, StopSignal())
    assert apart(run_dir, uninterrupted) < 1e-5


def test_a_run_never_resumes_from_a_partial_checkpoint(tmp_path, model, uninterrupted):
    run_dir = dpo_run(tmp_path, model, groups_that_like_b(32), **INTERRUPTED)
    half = run_dir.checkpoints / ".tmp-trainer" / "checkpoint-20"
    half.mkdir(parents=True)
    (half / "trainer_state.json").write_text('{"global_step": 20}')
    train(run_dir, StopSignal())
    assert not [text for text in messages(run_dir) if text.startswith("Resuming")]
    assert apart(run_dir, uninterrupted) == 0


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(
    tmp_path, model, uninterrupted, monkeypatch
):
    run_dir = dpo_run(tmp_path, model, groups_that_like_b(32), **INTERRUPTED)
    real, sizes = recipe.PolicyTrainer.training_step, []

    def small_memory(self, *args, **kwargs):
        sizes.append(self.data_collator.most)
        if sizes[-1] > 2 and self.state.global_step >= 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(recipe.PolicyTrainer, "training_step", small_memory)
    train(run_dir, StopSignal())
    assert set(sizes) == {4, 2}
    (texts,) = messages(run_dir, "warning")
    assert "continuing with 2 at a time" in texts
    assert "Resuming from checkpoint-2." in messages(run_dir)
    assert report_of(run_dir)["training"]["micro_batch_size"] == 2
    assert apart(run_dir, uninterrupted) < 1e-3


def test_the_micro_batch_changes_memory_and_not_the_result(tmp_path, model, uninterrupted):
    run_dir = dpo_run(tmp_path, model, groups_that_like_b(32), **INTERRUPTED, micro_batch_size=8)
    train(run_dir, StopSignal())
    assert apart(run_dir, uninterrupted) < 1e-3


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "groups", [[], [ranked_group("g", ["a", "b"], [[0]])]], ids=["empty", "not compared"]
)
def test_a_run_without_training_data_is_refused_with_the_reasons(tmp_path, model, groups):
    run_dir = dpo_run(tmp_path, model, groups)
    with pytest.raises(RecipeError, match="nothing to train on") as error:
        train(run_dir, StopSignal())
    if groups:
        assert "1 prompts: no two responses compared" in str(error.value)
    assert not run_dir.output.exists()


def test_responses_that_are_too_long_are_left_out_and_never_cut(tmp_path, model):
    groups = [*groups_that_like_b(8), ranked_group("long", ["b" * 100, "a", "bb"], [[0], [2], [1]])]
    run_dir = dpo_run(tmp_path, model, groups, max_length=60, evaluations=0)
    train(run_dir, StopSignal())
    result = report_of(run_dir)["left_out"]
    why = "longer than 60 tokens with its prompt"
    assert result == [{"split": "train", "what": "responses", "why": why, "count": 1}]
    assert report_of(run_dir)["pairs"]["train"] == 6 * 3 + 1
    assert any(why in text for text in messages(run_dir, "warning"))


def test_the_models_own_length_is_a_limit_too(tmp_path):
    short = make_model(tmp_path / "short", max_position_embeddings=48)
    groups = [*groups_that_like_b(8), ranked_group("long", ["b" * 40, "a", "bb"], [[0], [2], [1]])]
    run_dir = dpo_run(tmp_path / "run", short, groups, evaluations=0)
    train(run_dir, StopSignal())
    assert report_of(run_dir)["left_out"][0]["why"] == "longer than 48 tokens with its prompt"


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path, model, monkeypatch):
    run_dir = dpo_run(tmp_path, model, groups_that_like_b(16), checkpoint_steps=1, epochs=2)
    real = recipe.PolicyTrainer.compute_loss

    def broken(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        return loss * math.nan if self.state.global_step == 2 else loss

    monkeypatch.setattr(recipe.PolicyTrainer, "compute_loss", broken)
    with pytest.raises(RecipeError, match="not finite at step 3"):
        train(run_dir, StopSignal())
    assert not run_dir.output.exists()
    saved = load_file(newest_checkpoint(run_dir) / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in saved.values())


def test_a_missing_layer_is_reported(tmp_path, model):
    run_dir = dpo_run(tmp_path, model, groups_that_like_b(8), lora_targets="no_such_layer")
    with pytest.raises(RecipeError, match="no_such_layer"):
        train(run_dir, StopSignal())


def test_a_folder_without_a_model_is_reported(tmp_path):
    run_dir = dpo_run(tmp_path, Path("/no/such/model"), groups_that_like_b(8))
    with pytest.raises(RecipeError, match="/no/such/model does not exist"):
        train(run_dir, StopSignal())


# --- options ----------------------------------------------------------------------------------------


def test_a_chat_template_is_not_needed(tmp_path):
    plain = make_model(tmp_path / "plain", chat=False)
    run_dir = dpo_run(tmp_path / "run", plain, groups_that_like_b(8), evaluations=0)
    train(run_dir, StopSignal())
    assert "User: Question g" in report_of(run_dir)["first_batch"]


def test_without_held_out_prompts_the_report_has_no_accuracy(tmp_path, model):
    groups = [g for g in groups_that_like_b(12) if g.split == "train"]
    run_dir = dpo_run(tmp_path, model, groups)
    train(run_dir, StopSignal())
    assert report_of(run_dir)["accuracy"]["value"] is None
    assert report_of(run_dir)["held_out"] == {}


def test_named_layers_alone_get_an_adapter(tmp_path, model):
    run_dir = dpo_run(
        tmp_path, model, groups_that_like_b(8), lora_targets="q_proj, v_proj", evaluations=0
    )
    train(run_dir, StopSignal())
    assert {name.split(".")[-3] for name in weights_of(run_dir.output)} == {"q_proj", "v_proj"}


def test_bfloat16_trains_on_any_machine(tmp_path, model):
    run_dir = dpo_run(tmp_path, model, groups_that_like_b(8), dtype="bfloat16", evaluations=0)
    train(run_dir, StopSignal())
    training = report_of(run_dir)["training"]
    assert training["curve"][0][1] == pytest.approx(math.log(2), abs=1e-2)
    assert math.isfinite(training["final_loss"])

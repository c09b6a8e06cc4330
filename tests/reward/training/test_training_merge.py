"""Tests of merging adapter and heads into a plain model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from django.core.management import CommandError, call_command

from recipes.errors import RecipeError
from recipes.stopping import StopSignal
from reward.training import merge as merging
from reward.training.merge import merge, with_one_label
from reward.training.score import Scorer
from reward.training.train import train
from tests.finetune.factory import make_reward_model, make_snapshot
from tests.reward.factory import make_project
from tests.reward.world import make_groups, make_run, tiny_llama
from tests.tiny import make_tokenizer

torch.set_num_threads(1)

ROOT = Path(__file__).parents[3]
PROMPT = [{"role": "user", "content": "Write 7 letters."}]
RESPONSES = ["axxb", "zzz", "x"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a run with two heads."""
    folder = tmp_path_factory.mktemp("merge")
    run_dir = make_run(folder / "run", tiny_llama(folder), make_groups(16, 4), heads=2)
    train(run_dir, StopSignal())
    return run_dir


def plain_scores(folder: Path) -> list[float]:
    """Score with transformers alone, in a process without this package."""
    code = f"""
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
model = AutoModelForSequenceClassification.from_pretrained({str(folder)!r}).eval()
assert model.config.num_labels == 1
texts = [tokenizer.apply_chat_template({PROMPT!r} + [{{"role": "assistant", "content": r}}], tokenize=False) for r in {RESPONSES!r}]
batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
with torch.no_grad():
    print([round(x, 7) for x in model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].tolist()])
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_merged_folder_gives_the_same_scores_with_transformers_alone(finished, tmp_path):
    out = merge(finished.path, tmp_path / "merged")
    [expected] = Scorer(finished.output).score([(PROMPT, RESPONSES)])
    np.testing.assert_allclose(plain_scores(out), expected, atol=1e-5)
    [ours] = Scorer(out).score([(PROMPT, RESPONSES)])
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert not (out / "adapter_config.json").exists()
    report = json.loads((out / "report.json").read_text())
    assert report["merged_from"]["outputs"]["heads"] == 2 and report["outputs"]["heads"] == 1
    assert "AutoModelForSequenceClassification" in (out / "README.md").read_text()
    assert "2 heads" not in (out / "README.md").read_text()


def test_a_merge_with_different_scores_writes_nothing(finished, tmp_path, monkeypatch):
    def wrong(model, heads):
        model = with_one_label(model, heads)
        model.score.weight.data += 0.1
        return model

    monkeypatch.setattr(merging, "with_one_label", wrong)
    with pytest.raises(RecipeError, match="differ by"):
        merge(finished.output, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_or_holds_no_reward_model_is_refused(finished, tmp_path):
    with pytest.raises(RecipeError, match="already exists"):
        merge(finished.output, tmp_path)
    with pytest.raises(RecipeError, match="is not the output of a reward run"):
        merge(tmp_path, tmp_path / "merged")


def test_merged_weights_are_saved_in_bfloat16_on_request(finished, tmp_path):
    from safetensors.torch import load_file

    out = merge(finished.path, tmp_path / "merged", dtype="bfloat16")
    kinds = {weight.dtype for weight in load_file(out / "model.safetensors").values()}
    assert kinds == {torch.bfloat16}


def test_a_whole_model_with_criteria_keeps_the_overall_score(tmp_path):
    from tests.reward.training.test_training_criteria import rated_groups

    run_dir = make_run(
        tmp_path / "run", tiny_llama(tmp_path), rated_groups(8, 2), lora_r=0, criteria_weight=1.0,
        learning_rate=1e-3, epochs=0.5,
    )  # fmt: skip
    train(run_dir, StopSignal())
    out = merge(run_dir.path, tmp_path / "merged")
    [expected] = Scorer(run_dir.output).score([(PROMPT, RESPONSES)])
    np.testing.assert_allclose(Scorer(out).score([(PROMPT, RESPONSES)])[0], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_an_encoders_last_layer_becomes_the_mean_of_its_heads(family):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    size = {"vocab_size": 99, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2, "dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **size, num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    probe = {"input_ids": torch.randint(5, 99, (2, 7))}
    with torch.no_grad():
        expected = model(**probe).logits[:, :2].mean(dim=-1)
        result = with_one_label(model, 2)(**probe).logits
    torch.testing.assert_close(result, expected[:, None], atol=1e-6, rtol=0)


def test_an_encoder_with_heads_and_criteria_trains_scores_and_merges(tmp_path):
    from transformers import AutoConfig, AutoModel

    from tests.reward.training.test_training_criteria import rated_groups

    config = AutoConfig.for_model(
        "bert", vocab_size=262, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path / "bert")
    make_tokenizer(chat=False).save_pretrained(tmp_path / "bert")
    run_dir = make_run(
        tmp_path / "run", tmp_path / "bert", rated_groups(12, 4), heads=3, criteria_weight=0.5,
        epochs=1,
    )  # fmt: skip
    train(run_dir, StopSignal())
    [verdict] = Scorer(run_dir.output).judge([(PROMPT, RESPONSES)])
    assert verdict.heads.shape == (3, 3) and verdict.criteria.shape == (3, 1)
    out = merge(run_dir.path, tmp_path / "merged")
    [merged] = Scorer(out).score([(PROMPT, RESPONSES)])
    np.testing.assert_allclose(merged, verdict.scores, atol=1e-5)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_command_merges_explains_errors_and_has_a_dry_run(finished, tmp_path, capsys):
    model = make_reward_model(make_snapshot(make_project(), prompts=2), path=str(finished.output))
    out = tmp_path / "merged"
    call_command("merge_reward", str(model.pk), str(out), "--dry-run")
    assert not out.exists() and str(finished.output) in capsys.readouterr().out
    call_command("merge_reward", str(model.pk), str(out), "--dtype", "bfloat16")
    assert (out / "model.safetensors").is_file()
    with pytest.raises(CommandError, match="already exists"):
        call_command("merge_reward", str(model.pk), str(out))
    with pytest.raises(CommandError, match="no reward model 999"):
        call_command("merge_reward", "999", str(out))

"""Tests of several heads on one backbone: saving, scoring and reporting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from recipes.preferences.groups import Group, Judgment, read_groups
from recipes.preferences.loss_inputs import bootstrap
from recipes.stopping import StopSignal
from reward.evaluation.report import Scored
from reward.evaluation.uncertainty import auc, disagreement, pairs_of
from reward.training.score import Scorer, score_file
from reward.training.train import train
from tests.reward.world import make_groups, make_run, tiny_llama

torch.set_num_threads(1)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    run_dir = make_run(folder / "run", tiny_llama(folder), make_groups(24, 16), heads=4)
    train(run_dir, StopSignal())
    return run_dir


def test_the_score_is_the_mean_of_heads_that_differ_and_all_are_saved(finished):
    weights = load_file(finished.output / "adapter_model.safetensors")
    [score] = [weight for name, weight in weights.items() if "score" in name]
    assert score.shape[0] == 4
    groups = [g for g in read_groups(finished.data / "preferences.parquet") if g.split == "test"]
    scorer = Scorer(finished.output)
    conversations = [(group.prompt, group.responses) for group in groups]
    verdicts = scorer.judge(conversations)
    for verdict, scores in zip(verdicts, scorer.score(conversations), strict=True):
        heads = verdict.heads
        assert heads.shape == (len(scores), 4) and heads.std(axis=1).min() > 0
        np.testing.assert_allclose(heads.mean(axis=1), scores, atol=1e-6)


def test_a_new_process_gives_the_same_scores_and_disagreements(finished, tmp_path):
    source, target = finished.data / "preferences.parquet", tmp_path / "scored.parquet"
    command = [sys.executable, "-m", "reward.training.score", str(finished.output), str(source)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(target)], cwd=ROOT, env=environment, check=True)
    groups = list(read_groups(source))
    ours = Scorer(finished.output).judge([(g.prompt, g.responses) for g in groups])
    for row, verdict in zip(pq.read_table(target).to_pylist(), ours, strict=True):
        np.testing.assert_allclose(row["scores"], verdict.heads.mean(axis=1), atol=1e-5)
        np.testing.assert_allclose(row["disagreements"], verdict.heads.std(axis=1), atol=1e-5)


def test_sampled_text_gets_its_disagreement_and_the_unreadable_null(finished, tmp_path):
    prompt = [{"role": "user", "content": "One"}]
    rows = [{"prompt": prompt, "response": text} for text in ("xxx", "y" * 600)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    assert (
        score_file(Scorer(finished.output), tmp_path / "in.parquet", tmp_path / "out.parquet") == 1
    )
    read, unread = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert read["disagreement"] > 0 and unread["score"] is unread["disagreement"] is None


def test_report_and_card_show_the_number_and_value_of_heads(finished):
    report = json.loads((finished.output / "report.json").read_text())
    assert report["outputs"]["heads"] == report["disagreement"]["heads"] == 4
    assert {"spread", "relative", "small_gap"} == report["disagreement"]["finds_mistakes"].keys()
    card = (finished.output / "README.md").read_text()
    assert "num_labels=4)" in card and "The model has 4 heads" in card


def test_an_ordinary_classifier_with_as_many_labels_gives_the_same_scores(finished):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    spec = json.loads((finished.output / "adapter_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(finished.output)
    base = AutoModelForSequenceClassification.from_pretrained(
        spec["base_model_name_or_path"], num_labels=4
    )
    base.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(base, finished.output).eval()
    prompt = [{"role": "user", "content": "Write 7 letters."}]
    [[score]] = Scorer(finished.output).score([(prompt, ["axxb"])])
    chat = [*prompt, {"role": "assistant", "content": "axxb"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    with torch.no_grad():
        logits = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits
    assert logits.mean().item() == pytest.approx(float(score), abs=1e-5)


def test_one_head_is_a_model_of_one_number_and_has_no_disagreement(tmp_path):
    run_dir = make_run(tmp_path / "run", tiny_llama(tmp_path), make_groups(8, 2), epochs=0.5)
    train(run_dir, StopSignal())
    weights = load_file(run_dir.output / "adapter_model.safetensors")
    [score] = [weight for name, weight in weights.items() if "score" in name]
    assert score.shape[0] == 1
    assert json.loads((run_dir.output / "report.json").read_text())["disagreement"] is None


# --- draws ----------------------------------------------------------------------------------------


def test_draws_follow_from_prompt_and_seed_alone_and_are_one_in_the_mean():
    assert bootstrap("g1", 3, 0).tolist() == bootstrap("g1", 3, 0).tolist()
    assert bootstrap("g1", 3, 0).tolist() != bootstrap("g2", 3, 0).tolist()
    assert bootstrap("g1", 3, 0).tolist() != bootstrap("g1", 3, 1).tolist()
    many = np.array([bootstrap(f"g{n}", 4, 0) for n in range(4000)])
    np.testing.assert_allclose(many.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(many.std(axis=0), 1, atol=0.08)
    assert np.abs(np.corrcoef(many.T) - np.eye(4)).max() < 0.06


# --- does disagreement find mistakes? -------------------------------------------------------------


def pair(number, heads_gap, right=True):
    """Return two responses, of which the mean prefers the first."""
    heads = np.array([heads_gap, [0.0] * len(heads_gap)])
    tiers = [[0], [1]] if right else [[1], [0]]
    group = Group(f"g{number}", [], [0, 1], ["a", "b"], [Judgment("r", tiers)], split="test")
    return Scored(group, heads.mean(axis=1), np.ones(2), heads)


def test_the_spread_of_a_pair_is_the_spread_of_the_difference():
    heads = np.array([[11.0, 1.0], [10.0, 0.0]])  # the heads differ by a constant alone
    group = Group("g", [], [0, 1], ["a", "b"], [Judgment("r", [[0], [1]])])
    result = pairs_of([Scored(group, heads.mean(axis=1), np.ones(2), heads)])
    assert (result.spread.tolist(), result.gap.tolist()) == ([0.0], [1.0])


def test_the_area_under_the_curve_counts_equal_values_half():
    # Wrong at 3 and 1; right at 2 and 1: 3>2, 3>1, 1<2, 1=1 → (1 + 1 + 0 + ½) / 4
    values = np.array([3.0, 1.0, 2.0, 1.0])
    right, wrong = np.array([0.0, 0, 1, 1]), np.array([1.0, 1, 0, 0])
    assert auc(values, right, wrong) == pytest.approx(2.5 / 4)
    assert auc(values, right, wrong * 3) == pytest.approx(2.5 / 4)


def test_useful_disagreement_finds_mistakes_that_a_small_gap_does_not():
    right = [pair(n, [1.0, 1.0]) for n in range(40)]
    wrong = [pair(100 + n, [3.0, -1.0], right=False) for n in range(30)]
    figure = disagreement(right + wrong)
    assert figure["finds_mistakes"]["spread"]["value"] == 1.0
    assert figure["finds_mistakes"]["small_gap"]["value"] == 0.5
    assert figure["parts"][0]["accuracy"] == 1.0
    assert figure["parts"][-1]["accuracy"] == 0.0
    assert (figure["heads"], figure["pairs"], figure["prompts"]) == (2, 70, 70)


@pytest.mark.parametrize("items", [[], [pair(1, [1.0, 1.0])]])
def test_without_mistakes_the_area_has_no_value(items):
    payload = json.loads(json.dumps(disagreement(items), allow_nan=False))
    assert payload["finds_mistakes"]["spread"]["value"] is None
    assert payload["finds_mistakes"]["spread"]["reason"] and payload["parts"] == []

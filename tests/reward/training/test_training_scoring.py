"""Tests of the recipe that scores a project."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recipes.errors import Stopped
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from reward.scoring.scores import to_score
from reward.training import score_project
from reward.training.features import FeatureScorer, projection
from reward.training.score import Scorer
from reward.training.score_project import score_all
from reward.training.train import train
from tests.reward.world import make_groups, make_run, messages, tiny_llama

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    groups = make_groups(8, 2)
    run_dir = make_run(folder / "run", tiny_llama(folder), groups, heads=3, epochs=0.5)
    train(run_dir, StopSignal())
    return run_dir.output


def make_scoring(folder, model, prompts=3, **config) -> RunDir:
    spec = {"kind": "score", "config": {"reward_model": str(model), **config}, "inputs": {}}
    run_dir = RunDir.create(folder, spec)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Question {n}"}],
            "response_ids": [10 * n, 10 * n + 1, 10 * n + 2],
            "responses": ["xx", "a" * (600 if n == 1 else 5), "b x"],
        }
        for n in range(prompts)
    ]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=to_score()), run_dir.data / "responses.parquet"
    )
    return run_dir


def read(run_dir):
    return pq.read_table(run_dir.output / "scores.parquet").to_pylist()


def test_every_readable_response_gets_the_score_of_the_scorer(model, tmp_path):
    run_dir = make_scoring(tmp_path / "run", model)
    score_all(run_dir, StopSignal())
    rows = {row["response_id"]: row for row in read(run_dir)}
    assert len(rows) == 9
    unread = rows.pop(11)
    assert unread["score"] is unread["uncertainty"] is unread["features"] is None
    prompt = [{"role": "user", "content": "Question 2"}]
    [verdict] = Scorer(model).judge([(prompt, ["xx", "aaaaa", "b x"])])
    for k in range(3):
        assert rows[20 + k]["score"] == pytest.approx(float(verdict.scores[k]), abs=1e-5)
        assert rows[20 + k]["uncertainty"] == pytest.approx(
            float(verdict.disagreements[k]), abs=1e-5
        )
    report = json.loads((run_dir.output / "report.json").read_text())
    assert (report["responses"], report["scored"], report["unread"]) == (9, 8, 1)
    assert any("too long for the model" in text for text in messages(run_dir, "warning"))


def test_the_head_makes_the_scores_from_the_features(model, tmp_path):
    run_dir = make_scoring(tmp_path / "run", model)
    score_all(run_dir, StopSignal())
    scorer = Scorer(model)
    weight = scorer.model.classifier.score.weight.detach().float().numpy().mean(axis=0)  # (H,)
    known = [row for row in read(run_dir) if row["features"]]
    features = np.stack([np.frombuffer(row["features"], "<f4") for row in known])
    assert features.shape == (8, len(weight))  # narrower than the limit, so not projected
    np.testing.assert_allclose(features @ weight, [row["score"] for row in known], atol=1e-4)


def test_a_scorer_without_a_limit_gets_the_limit_of_the_machine(model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Scorer(model).max_tokens == 512
    assert Scorer(model, max_tokens=50).max_tokens == 50


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_both_layouts_give_the_same_features(model, layout):
    prompt = [{"role": "user", "content": "One"}]
    scorer = FeatureScorer(model, dims=8)
    scorer.wants_shared = layout == "shared"
    [(verdict, features)] = scorer.judge_with_features([(prompt, ["xx", "ay", "z"])])
    assert scorer.collator.layout == layout
    alone = [scorer.judge_with_features([(prompt, [text])])[0][1][0] for text in ("xx", "ay", "z")]
    assert features.shape == (3, 8)
    np.testing.assert_allclose(features, alone, atol=1e-4)
    assert verdict.criteria.shape == (3, 0)


def test_a_wide_layer_is_projected_and_lengths_stay_in_the_mean():
    wide = np.random.default_rng(0).normal(size=(200, 512))
    projected = wide @ projection(512, 64)
    assert projected.shape == (200, 64)
    ratio = (projected**2).sum(axis=1) / (wide**2).sum(axis=1)
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(projection(512, 64), projection.__wrapped__(512, 64))


def test_without_features_none_are_written(model, tmp_path):
    run_dir = make_scoring(tmp_path / "run", model, keep_features=False)
    score_all(run_dir, StopSignal())
    rows = read(run_dir)
    assert rows[0]["score"] is not None and all(row["features"] is None for row in rows)


def test_a_stopped_run_resumes_after_its_last_part(model, tmp_path, monkeypatch):
    monkeypatch.setattr(score_project, "PROMPT_BATCH_SIZE", 1)
    stop = StopSignal()
    run_dir = make_scoring(tmp_path / "run", model)
    first_emit = run_dir.emit

    def stop_after_the_first(event, **fields):
        first_emit(event, **fields)
        stop.requested = True

    monkeypatch.setattr(run_dir, "emit", stop_after_the_first)
    with pytest.raises(Stopped):
        score_all(run_dir, stop)
    done = score_project.part_path(run_dir, 0)
    written = done.stat().st_mtime_ns
    monkeypatch.setattr(run_dir, "emit", first_emit)
    score_all(run_dir, StopSignal())
    assert done.stat().st_mtime_ns == written
    whole = make_scoring(tmp_path / "whole", model)
    score_all(whole, StopSignal())
    assert read(run_dir) == read(whole)


def test_out_of_memory_halves_the_token_limit(model, tmp_path, monkeypatch):
    plain = make_scoring(tmp_path / "plain", model)
    score_all(plain, StopSignal())
    ask, tried = FeatureScorer._outputs, []

    def short_of_memory(self, conversations):
        tried.append(self.max_tokens)
        if self.max_tokens > 500:
            raise RuntimeError("CUDA out of memory")
        return ask(self, conversations)

    monkeypatch.setattr(FeatureScorer, "_outputs", short_of_memory)
    run_dir = make_scoring(tmp_path / "run", model, batch_tokens=1000)
    score_all(run_dir, StopSignal())
    assert tried == [1000, 500]
    assert any("Out of memory" in text for text in messages(run_dir, "warning"))
    for ours, theirs in zip(read(run_dir), read(plain), strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_with_nothing_to_score_no_model_is_loaded(tmp_path):
    run_dir = make_scoring(tmp_path / "run", tmp_path / "no model", prompts=0)
    score_all(run_dir, StopSignal())
    assert read(run_dir) == []

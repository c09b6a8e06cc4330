"""Tests of a score for each rated criterion in addition to the overall score."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from recipes.errors import RecipeError
from recipes.preferences.groups import Group, Judgment, read_groups
from recipes.stopping import StopSignal
from reward.evaluation import report as reports
from reward.evaluation.report import Scored
from reward.training.score import Scorer, score_file
from reward.training.train import train
from tests.reward.world import make_groups, make_run, tiny_llama

torch.set_num_threads(1)


def rated_groups(train: int, test: int) -> list[Group]:
    """Return groups ordered by x, with a criterion `brief` that prefers short responses."""
    return [rated(group) for group in make_groups(train, test)]


def rated(group: Group) -> Group:
    values = {
        str(i): {"brief": 13 - len(text)}
        for i, text in zip(group.response_ids, group.responses, strict=True)
    }
    return Group(**{**vars(group), "meta": {"ratings": [values, values]}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("criteria")
    run_dir = make_run(
        folder / "run", tiny_llama(folder), rated_groups(64, 24), criteria_weight=1.0, heads=2,
        epochs=4,
    )  # fmt: skip
    train(run_dir, StopSignal())
    return run_dir


def test_each_criterion_is_learned_and_reported_with_the_overall_score(finished):
    report = json.loads((finished.output / "report.json").read_text())
    assert report["outputs"] == {"heads": 2, "criteria": ["brief"]}
    assert report["accuracy"]["value"] > 0.75
    [row] = report["criteria"]
    assert row["criterion"] == "brief" and row["accuracy"]["value"] > 0.75
    assert row["accuracy"]["value"] > row["overall_accuracy"]["value"] + 0.2
    assert row["reviewer_agreement"]["value"] == 1.0
    card = (finished.output / "README.md").read_text()
    assert "num_labels=3)" in card and "in this order: brief" in card


def test_criteria_are_scored_in_a_column_each(finished, tmp_path):
    source = finished.data / "preferences.parquet"
    scorer = Scorer(finished.output)
    score_file(scorer, source, tmp_path / "scored.parquet")
    rows = pq.read_table(tmp_path / "scored.parquet").to_pylist()
    groups = list(read_groups(source))
    verdicts = scorer.judge([(group.prompt, group.responses) for group in groups])
    for row, verdict in zip(rows, verdicts, strict=True):
        np.testing.assert_allclose(row["scores_brief"], verdict.criteria[:, 0], atol=1e-5)
        np.testing.assert_allclose(row["scores"], verdict.heads.mean(axis=1), atol=1e-5)


def test_a_criteria_weight_without_ratings_is_refused_with_a_sentence(tmp_path):
    run_dir = make_run(tmp_path, tiny_llama(tmp_path), make_groups(4, 2), criteria_weight=1.0)
    with pytest.raises(RecipeError, match="No ranking of the train split has ratings"):
        train(run_dir, StopSignal())


def test_a_criterion_is_judged_by_ratings_and_not_by_the_order():
    values = {"0": {"kind": 2}, "1": {"kind": 5}, "2": {"kind": 5}}
    group = Group(
        "g", [], [0, 1, 2], ["a", "b", "c"], [Judgment("r", [[0], [1], [2]])],
        split="test", meta={"ratings": [values]},
    )  # fmt: skip
    item = Scored(
        group, np.array([3.0, 2.0, 1.0]), np.ones(3), None, np.array([[0.0], [2.0], [-1.0]])
    )
    [row] = reports.criteria([item], ["kind"])
    # Strict: 1 > 0 and 2 > 0. Its own score gets the first, the overall score neither.
    assert row["accuracy"]["value"] == 0.5 and row["overall_accuracy"]["value"] == 0.0
    assert row["reviewer_agreement"]["value"] is None

"""Tests that the report of a run has exactly the keys of the schema."""

import json
from typing import get_type_hints

import pytest

from recipes.stopping import StopSignal
from reward.evaluation.schema import RewardReport
from reward.training.train import train
from tests.reward.world import make_groups, make_run, tiny_llama
from tests.schema import differences


@pytest.mark.parametrize(
    "settings",
    [{}, {"heads": 2, "criteria_weight": 1.0, "learning_curve": 3, "label_mistakes": 2}],
    ids=["by default", "with every part"],
)
def test_a_report_has_the_declared_keys_and_no_others(tmp_path, settings):
    groups = make_groups(64, 16, k=3)
    for group in groups:
        rating = {str(pk): {"clarity": pk % 3} for pk in group.response_ids}
        group.meta["ratings"] = [rating for _ in group.rankings]
    run_dir = make_run(tmp_path / "run", tiny_llama(tmp_path), groups, epochs=1.0, **settings)
    train(run_dir, StopSignal())
    report = json.loads((run_dir.output / "report.json").read_text())
    assert differences(report, RewardReport) == []
    assert report.keys() == get_type_hints(RewardReport).keys()


def test_an_undeclared_key_and_another_type_are_reported():
    report = {"kind": 3, "extra": 1, "accuracy": {"value": 0.5}}
    assert sorted(differences(report, RewardReport))[:2] == [
        "report.accuracy.interval is missing",
        "report.accuracy.method is missing",
    ]
    assert "report.extra is not declared" in differences(report, RewardReport)
    assert "report.kind is 3, not <class 'str'>" in differences(report, RewardReport)

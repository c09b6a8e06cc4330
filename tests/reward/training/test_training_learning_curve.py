"""Tests of the learning curve over nested subsets, and of its forecast."""

import json

import numpy as np
import pytest

from benchmarks.learning_curve import KINDS, case, main, simulate
from recipes.preferences.groups import read_folder, strict_wins
from recipes.settings import ConfigError
from recipes.stopping import StopSignal
from reward.evaluation.learning_curve import (
    Point,
    halvings,
    highest_accuracy,
    learning_curve,
    subsets,
)
from reward.evaluation.report import Tally
from reward.settings import RewardConfig
from reward.training.train import train
from tests.reward.world import make_groups, make_run, tiny_llama


def points(accuracies, rankings=(100, 200, 400, 800, 1600), prompts=600, seed=0) -> list[Point]:
    """Return points that are right on the same easy prompts, so that they do not differ by chance."""
    luck = np.random.default_rng(seed).permutation(prompts) / prompts
    return [
        Point(n, n, [Tally(float(item < accuracy), 1.0, 1) for item in luck])
        for n, accuracy in zip(rankings, accuracies, strict=True)
    ]


def law(n, a=0.9, b=2.0, c=0.5):
    return a - b * n**-c


def test_each_subset_contains_the_smaller_ones():
    small, middle, large = subsets(100, 3, seed=0)
    assert [len(small), len(middle), len(large)] == [12, 25, 50]
    assert set(small) < set(middle) < set(large) < set(range(100))


def test_subsets_of_a_few_prompts_are_not_trained():
    assert halvings(70, 8) == [8, 17, 35]
    assert subsets(63, 8, seed=0) == []


def test_the_forecast_follows_the_power_law_of_the_points():
    sizes = (100, 200, 400, 800, 1600)
    curve = learning_curve(points([law(n) for n in sizes], sizes))
    assert curve["reason"] is None
    twice, four = curve["forecast"]
    assert (twice["rankings"], four["rankings"]) == (3200, 6400)
    for forecast in (twice, four):
        assert forecast["value"] == pytest.approx(law(forecast["rankings"]), abs=0.006)
        low, high = forecast["interval"]
        assert low < law(forecast["rankings"]) < high
        gain = law(forecast["rankings"]) - law(1600)
        assert forecast["gain"]["interval"][0] < gain < forecast["gain"]["interval"][1]
        assert high - low > forecast["gain"]["interval"][1] - forecast["gain"]["interval"][0]


def test_the_rankings_for_the_next_point_follow_the_power_law():
    sizes = (100, 200, 400, 800, 1600)
    curve = learning_curve(points([law(n) for n in sizes], sizes))["one_point"]
    needed = (2.0 / (0.9 - law(1600) - 0.01)) ** 2 - 1600
    assert curve["rankings"] == pytest.approx(needed, rel=0.25)
    assert curve["interval"][0] < needed and curve["chance"] > 0.95


def test_a_flat_curve_forecasts_no_gain():
    curve = learning_curve(points([0.8, 0.8, 0.8, 0.8, 0.8]))
    assert curve["one_point"]["rankings"] is None
    assert "not expected to add a point" in curve["one_point"]["reason"]
    assert curve["forecast"][0]["gain"]["value"] < 0.005
    noisy = learning_curve(points([0.7, 0.6, 0.72, 0.65, 0.68], prompts=60))["one_point"]
    assert noisy["rankings"] is not None or "do not show" in noisy["reason"]


def test_fewer_held_out_prompts_make_a_wider_interval():
    sizes = (100, 200, 400, 800, 1600)
    accuracies = [law(n) for n in sizes]
    many = learning_curve(points(accuracies, sizes, 600))["forecast"][0]["interval"]
    few = learning_curve(points(accuracies, sizes, 60))["forecast"][0]["interval"]
    assert few[1] - few[0] > 2 * (many[1] - many[0])


def test_no_forecast_exceeds_the_limit_of_reviewer_agreement():
    # two in three agree: (1 + √⅓) / 2 of them, at most, are on the majority's side
    assert highest_accuracy(2 / 3) == pytest.approx((1 + 3**-0.5) / 2)
    assert highest_accuracy(1.0) == 1.0 and highest_accuracy(0.4) == 0.5
    climbing = points([0.5, 0.57, 0.64, 0.70, 0.75])
    assert learning_curve(climbing)["forecast"][1]["value"] > 0.79
    assert learning_curve(climbing, at_most=0.78)["forecast"][1]["value"] <= 0.79


def test_too_little_data_gives_a_reason_instead_of_a_forecast():
    too_few = learning_curve(points([0.6, 0.7, 0.8], (20, 40, 80)))
    assert too_few["forecast"] == [] and "needs 4 subsets" in too_few["reason"]
    assert [p["accuracy"]["value"] for p in too_few["points"]] == pytest.approx([0.6, 0.7, 0.8])
    unmeasured = learning_curve(points([0.6, 0.7, 0.8, 0.9, 0.9], prompts=9))
    assert "needs 10 held-out prompts" in unmeasured["reason"]


def test_two_halvings_are_refused_because_they_are_too_few():
    with pytest.raises(ConfigError, match="3 halvings"):
        RewardConfig.from_dict({"base_model": "m", "learning_curve": 2})


def test_the_forecast_holds_in_simulated_worlds():
    kind = next(kind for kind in KINDS if kind.name == "few rankings of four")
    rows = [row for seed in range(4) for row in simulate(kind, seed, others=300)]
    assert sum(row["held_others"] for row in rows) >= 6  # of 8; the benchmark simulates many more
    assert case(kind, rows)["width"] < 0.2


def test_the_benchmark_ends_with_one_line_of_json(capfd, monkeypatch):
    monkeypatch.setattr("benchmarks.learning_curve.OTHERS", 50)
    assert main(["--worlds", "1", "--kind", "few rankings of four"]) == 0
    output = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert output["name"] == "learning_curve"
    assert [case["times"] for case in output["cases"]] == [2, 4]


@pytest.fixture(scope="module")
def with_parts(tmp_path_factory):
    """Run the learning curve in two parts, twice; the second run reuses the parts."""
    folder = tmp_path_factory.mktemp("parts")
    groups = make_groups(64, 16, k=3)
    model = tiny_llama(folder)
    run_dir = make_run(folder / "run", model, groups, epochs=1, learning_curve=3, label_mistakes=2)
    train(run_dir, StopSignal())
    return run_dir


def report_of(run_dir):
    return json.loads((run_dir.output / "report.json").read_text())


def test_a_run_reports_its_curve(with_parts):
    curve = report_of(with_parts)["learning_curve"]
    assert [p["prompts"] for p in curve["points"]] == [8, 16, 32, 64]
    assert [p["rankings"] for p in curve["points"]] == [16, 32, 64, 128]
    assert curve["points"][-1]["accuracy"]["value"] == report_of(with_parts)["accuracy"]["value"]
    assert [f["rankings"] for f in curve["forecast"]] == [256, 512]


def test_a_run_judges_every_ranking_by_a_model_that_did_not_train_on_it(with_parts):
    result = report_of(with_parts)["label_mistakes"]
    ordered = [g for g in read_folder(with_parts.data) if strict_wins(g).any()]
    assert result["checked"] == "all" and result["rankings"] == 2 * len(ordered) > 140


def test_a_finished_part_is_not_trained_again(with_parts, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in with_parts.path.glob("parts/*/scores.npz")}
    assert len(before) == 3 + 2
    first = report_of(with_parts)
    (with_parts.output / "report.json").unlink()
    train(with_parts, StopSignal())
    after = {path: path.stat().st_mtime_ns for path in with_parts.path.glob("parts/*/scores.npz")}
    assert after == before
    second = report_of(with_parts)
    assert second["learning_curve"] == first["learning_curve"]
    assert second["label_mistakes"] == first["label_mistakes"]


def test_parts_leave_no_checkpoint_and_do_not_change_the_progress_of_the_run(with_parts):
    assert not list(with_parts.path.glob("parts/*/checkpoints/*"))
    output = [e for e in with_parts.events() if e["event"] == "progress"]
    steps = [e["step"] for e in output]
    assert steps == sorted(steps) and steps[-1] == 16
    assert {e["total"] for e in output} == {16}


def test_without_the_option_a_run_has_no_curve_and_scores_its_held_out_prompts(tmp_path):
    run_dir = make_run(tmp_path / "run", tiny_llama(tmp_path), make_groups(8, 4), epochs=1)
    train(run_dir, StopSignal())
    report = report_of(run_dir)
    assert report["learning_curve"] is None
    assert report["label_mistakes"]["checked"] == "held-out"
    assert "too few to distinguish" in report["label_mistakes"]["reason"]
    assert not (run_dir.path / "parts").exists()

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import active
from benchmarks.active import (
    WORLDS,
    World,
    compare,
    curve,
    fit,
    main,
    noise_of,
    possible,
    rankings_to_reach,
)
from benchmarks.support import accelerator


def test_the_benchmark_ends_with_one_line_of_json_and_draws_the_curves(
    capfd, tmp_path, monkeypatch
):
    monkeypatch.setattr(active, "BUDGET", 100)
    small = [replace(world, waiting=200) for world in WORLDS]
    monkeypatch.setattr(active, "WORLDS", small)
    assert main(["--seeds", "1", "--world", "lifelike", "--svg", str(tmp_path / "curves.svg")]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["name"] == "active" and {"commit", "hardware", "cases"} <= result.keys()
    rare, often = result["cases"]
    assert (rare["batch"], often["batch"]) == (200, 20) and rare["random"] == often["random"]
    assert rare["active"] != often["active"]
    assert rare["counts"] == [40, 60, 80, 100]
    assert len(rare["random"]) == len(rare["active"]) == 4
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.count("<polyline") == 3 and "lifelike" in drawn


def test_active_selection_learns_more_from_the_same_number_of_rankings(monkeypatch):
    monkeypatch.setattr(active, "BUDGET", 160)
    world = next(world for world in WORLDS if world.name == "lifelike")
    gains = [
        curve(world, seed, active.most_to_learn)[-1] - curve(world, seed, active.at_random)[-1]
        for seed in range(3)
    ]
    assert np.mean(gains) > 0.01


def test_one_order_serves_a_batch_of_rankings(monkeypatch):
    monkeypatch.setattr(active, "BUDGET", 160)
    requests = []

    def choose(tasks, waits, ranked, count, rng):
        requests.append((len(ranked), count))
        return waits[:count]

    points = curve(World("any"), 0, choose, 60)
    assert requests == [(40, 60), (100, 60)] and len(points) == len(active.counts()) == 7


def test_a_batch_between_two_points_of_the_curve_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--batch", "30"])
    assert "not a multiple of 20" in capsys.readouterr().err


def test_savings_are_relative_to_random_selection(monkeypatch):
    monkeypatch.setattr(active, "BUDGET", 240)
    level = [0.5, 0.6, 0.7, 0.8, 0.9, *[0.9] * 6]
    steep = [0.5, 0.7, 0.9, *[0.95] * 8]
    result = compare([level] * 3, [steep] * 3)
    assert result["needed"] == {"random": 120, "active": 80}
    assert result["saved_to"] == pytest.approx(80 / 120, abs=1e-3)


def test_an_unreached_target_is_null(monkeypatch):
    monkeypatch.setattr(active, "BUDGET", 240)
    flat, steep = [0.5] * 11, [0.5, 0.7, 0.9, *[0.95] * 8]
    result = compare([steep] * 3, [flat, flat, steep])
    assert result["saved_to"] is result["needed"]["active"] is None
    assert result["saved_to_range"] == [1.0, None]
    case = {"world": "hard", "batch": 20, **json.loads(json.dumps(result, allow_nan=False))}
    assert "hard: not reached" in active.svg([case])


def test_the_wins_of_equal_responses_have_the_variance_of_ranks():
    result = noise_of(np.zeros((400, 4)), np.random.default_rng(0)).mean(axis=0)
    by_hand = (np.eye(4) - 1 / 4) * 4 * 5 / 12
    np.testing.assert_allclose(result, by_hand, atol=0.02)


def test_knowing_the_true_weights_saves_more_on_unequal_tasks():
    names = {world.name: world for world in WORLDS}
    level, unequal = possible(names["alike"], 0), possible(names["spread"], 0)
    few = possible(replace(names["alike"], waiting=1000), 0)
    assert 0.3 < unequal < level - 0.2 and level < few - 0.1 and few < 1
    assert possible(names["misfit"], 0) is None


def test_both_selections_start_from_the_same_rankings(monkeypatch):
    monkeypatch.setattr(active, "BUDGET", 40)
    assert curve(World("any"), 3, active.at_random) == curve(World("any"), 3, active.most_to_learn)


def test_a_target_is_interpolated_between_points_or_not_reached():
    rising = [0.5 + 0.01 * n for n in range(29)]
    assert rankings_to_reach(rising, 0.605) == pytest.approx(40 + 20 * 10.5)
    assert rankings_to_reach(rising, 0.9) is None and rankings_to_reach(rising, 0.1) == 40


def test_the_gradient_of_the_fit_is_zero():
    rng = np.random.default_rng(0)
    x, wins = rng.normal(size=(50, 3, 4)), rng.integers(0, 2, size=(50, 3, 3)).astype(float)
    theta = fit(x, wins, np.eye(4), np.zeros(4))
    i, j = np.triu_indices(3, 1)
    gaps, won = (x[:, i] - x[:, j]).reshape(-1, 4), wins[:, i, j].ravel()
    gradient = gaps.T @ (1 / (1 + np.exp(-gaps @ theta)) - won) + theta
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_the_benchmark_needs_no_torch():
    code = "import sys, benchmarks.active; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=accelerator.ROOT).returncode == 0


def test_the_commit_has_a_plus_if_measured_files_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "ROOT", tmp_path)
    for name in ("measured", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text("1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True)
    head = accelerator.git("rev-parse", "HEAD")
    (tmp_path / "other" / "code.py").write_text("2\n")
    assert accelerator.commit("measured") == head
    assert accelerator.commit("measured", "other/code.py") == f"{head}+"
    (tmp_path / "measured" / "new.py").write_text("3\n")
    assert accelerator.commit("measured") == f"{head}+"

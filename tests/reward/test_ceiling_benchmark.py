import json

import numpy as np
import pytest

from benchmarks.ceiling import WORLDS, ceiling_of, main
from recipes.preferences.groups import Group, Judgment


def test_the_ceiling_is_the_accuracy_of_the_true_scores():
    tiers = [[[0], [1], [2]], [[2], [1], [0]], [[0, 1], [2]]]
    group = Group("g", [], [0, 1, 2], [""] * 3, [Judgment("r", each) for each in tiers])
    # 3 of 3, 0 of 3 and 2 of 2 strict judgments agree with the true scores. Equal scores count half.
    assert ceiling_of([group], {"g": np.array([3.0, 2.0, 1.0])}) == pytest.approx(5 / 8)
    assert ceiling_of([group], {"g": np.array([3.0, 2.0, 2.0])}) == pytest.approx(4.5 / 8)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_rankings_follow_the_truth_with_noise(world):
    ranked = world.ranked(60, 40, 1)
    splits = [group.split for group in ranked.groups]
    assert (splits.count("train"), splits.count("test")) == (60, 40)
    assert 0.7 < ceiling_of(ranked.groups, ranked.truth) < 0.95
    again = world.ranked(60, 40, 1)
    assert again.groups == ranked.groups != world.ranked(60, 40, 2).groups


def test_the_benchmark_ends_with_one_line_of_json(capfd):
    assert main(["--world", "words", "--prompts", "24", "--held-out", "16", "--seeds", "1"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["name"] == "ceiling" and {"commit", "hardware"} <= result.keys()
    [case] = result["cases"]
    assert (case["world"], case["prompts"], case["held_out"]) == ("words", 24, 16)
    assert case["gap"] == pytest.approx(case["ceiling"] - case["accuracy"], abs=2e-4)
    [row] = case["seeds"]
    held_out = WORLDS[0].ranked(24, 16, 0)
    test = [group for group in held_out.groups if group.split == "test"]
    assert row["ceiling"] == pytest.approx(ceiling_of(test, held_out.truth))
    assert row["left_out"] == [] and row["accuracy"] is not None

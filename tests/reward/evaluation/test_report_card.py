"""Tests of temperature, slices, length and mistakes, by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from recipes.preferences.groups import Group, Judgment, strict_wins
from reward.evaluation.calibration import comparisons, fit, temperature
from reward.evaluation.confident_mistakes import MAX_CHARACTERS, worst_mistakes
from reward.evaluation.report import Scored, accuracy
from reward.evaluation.slices import length_slices, slices


def item(number, tiers, scores, lengths=None, **judgment) -> Scored:
    """Return a scored group; `tiers` is one ranking, or a list of (reviewer, tiers)."""
    count = len(scores)
    judgments = tiers if isinstance(tiers[0], tuple) else [("r", tiers)]
    group = Group(
        f"g{number}",
        [{"role": "user", "content": f"Question {number}"}],
        list(range(count)),
        [f"text {k}" for k in range(count)],
        [Judgment(name, placed, **judgment) for name, placed in judgments],
        split="test",
    )
    return Scored(group, np.array(scores, float), np.array(lengths or [1] * count, float))


# --- temperature ----------------------------------------------------------------------------------


def won(share: float, gap: float, count: int, start: int = 0) -> list[Scored]:
    """Return pairs with this score gap, of which the model is right about this share."""
    right = round(share * count)
    return [
        item(start + n, [[0], [1]] if n < right else [[1], [0]], [gap, 0.0]) for n in range(count)
    ]


def test_the_temperature_turns_gaps_into_win_probabilities():
    # At a gap of 4, σ(4) predicts 98 % wins, and three in four win: σ(4 / T) = ¾ at T = 4 / log 3
    figure = temperature(won(0.75, 4.0, 100))
    assert figure["value"] == pytest.approx(4 / math.log(3), rel=1e-4)
    assert figure["reason"] is None
    assert figure["before"]["ece"] == pytest.approx(1 / (1 + math.exp(-4)) - 0.75, abs=1e-6)
    assert figure["after"]["ece"] < 0.05
    assert figure["after"]["log_loss"] < figure["before"]["log_loss"]


def test_cross_fitting_estimates_the_result_on_new_prompts():
    # The scores are right as they are: nothing is gained, and the figures say so.
    rng = np.random.default_rng(0)
    gaps = rng.normal(0, 2, 400)
    sure = 1 / (1 + np.exp(-gaps))
    honest = [
        item(n, [[0], [1]] if rng.random() < p else [[1], [0]], [gap, 0.0])
        for n, (gap, p) in enumerate(zip(gaps, sure, strict=True))
    ]
    result, fitted = temperature(honest), fit(comparisons(honest))
    assert fitted == pytest.approx(1, abs=0.2)
    assert result["after"]["log_loss"] == pytest.approx(result["before"]["log_loss"], abs=0.01)
    assert result["after"]["log_loss"] > comparisons(honest).log_loss(fitted)
    assert result["after"]["log_loss"] > result["before"]["log_loss"]
    assert result["value"] is None and "did not improve the probabilities" in result["reason"]


def test_a_tie_pulls_the_temperature_up():
    strict = won(0.75, 4.0, 60)
    tied = strict + [item(100 + n, [[0, 1]], [4.0, 0.0]) for n in range(30)]
    assert temperature(tied)["value"] > temperature(strict)["value"] + 1


def test_little_data_or_no_mistake_gives_no_temperature_but_a_reason():
    for few in ([], won(0.75, 1.0, 4), won(1.0, 1.0, 60)):
        payload = json.loads(json.dumps(temperature(few), allow_nan=False))
        assert payload["value"] is None and payload["reason"]


def test_a_model_that_was_hardly_trained_gets_a_small_temperature():
    tiny = [replace(each, scores=each.scores / 4000) for each in won(0.75, 4.0, 100)]
    assert temperature(tiny)["value"] == pytest.approx(0.001 / math.log(3), rel=1e-4)


def test_a_temperature_at_a_bound_of_its_range_is_reported():
    assert "right about every pair" in temperature(won(1.0, 1.0, 60))["reason"]
    assert "Larger gaps in score did not win more often" in temperature(won(0.4, 1.0, 60))["reason"]


def test_the_temperature_leaves_out_ties_that_are_a_separate_outcome():
    strict = won(0.75, 4.0, 60)
    tied = strict + [item(100 + n, [[0, 1]], [4.0, 0.0]) for n in range(30)]
    figure = temperature(tied, 0, strict_wins)["value"]
    assert figure == pytest.approx(temperature(strict)["value"], rel=1e-6)


# --- slices ---------------------------------------------------------------------------------------


def test_slices_count_the_judgments_of_one_reviewer_or_version_alone():
    rows = [
        item(1, [("a", [[0], [1]]), ("b", [[1], [0]])], [1.0, 0.0], guideline_version=4),
        item(2, [("a", [[0], [1]])], [1.0, 0.0], guideline_version=5),
    ]
    slice_rows = slices(rows)
    by_reviewer = {row["name"]: row for row in slice_rows["reviewer"]}
    assert (
        by_reviewer["a"]["accuracy"]["value"] == 1.0 and by_reviewer["a"]["accuracy"]["pairs"] == 2
    )
    assert by_reviewer["b"]["accuracy"]["value"] == 0.0
    assert by_reviewer["a"]["reviewer_agreement"]["value"] == 0.0
    versions = {row["name"]: row for row in slice_rows["guideline_version"]}
    assert versions[4]["accuracy"]["value"] == 0.5 and versions[5]["accuracy"]["value"] == 1.0
    assert versions[5]["reviewer_agreement"]["value"] is None
    assert [row["name"] for row in slice_rows["reviewer"]] == ["a", "b"]


def test_a_reviewers_agreement_is_with_other_reviewers():
    judgments = [("a", [[0], [1]]), ("b", [[1], [0]]), ("c", [[1], [0]])]
    result = {row["name"]: row for row in slices([item(1, judgments, [1.0, 0.0])])["reviewer"]}
    assert result["a"]["reviewer_agreement"]["value"] == 0.0
    assert result["b"]["reviewer_agreement"]["value"] == 0.5


def test_a_pair_of_two_models_is_in_the_slice_of_both():
    three = item(1, [[0], [1], [2]], [3.0, 1.0, 2.0])
    meta = {"response_models": ["big", "small", "small"]}
    three = replace(three, group=replace(three.group, meta=meta))
    result = {row["name"]: row["accuracy"] for row in slices([three])["response_model"]}
    assert (result["big"]["value"], result["big"]["pairs"]) == (1.0, 2)
    assert (result["small"]["value"], result["small"]["pairs"]) == (pytest.approx(2 / 3), 3)


def test_without_model_names_there_is_no_slice_by_model():
    assert slices([item(1, [[0], [1]], [1.0, 0.0])])["response_model"] == []


# --- length ---------------------------------------------------------------------------------------


def test_a_model_that_prefers_length_is_right_where_the_longer_response_won():
    # Score is length: right on (50 beats 10), wrong on (10 beats 50); 100 and 105 are the same length.
    rows = [
        item(1, [[0], [1]], [50, 10], [50, 10]),
        item(2, [[0], [1]], [10, 50], [10, 50]),
        item(3, [[0], [1]], [100, 105], [100, 105]),
        item(4, [[0], [1]], [105, 100], [105, 100]),
    ]
    slice_rows = length_slices(rows)
    assert (slice_rows["longer_won"]["value"], slice_rows["shorter_won"]["value"]) == (1.0, 0.0)
    assert (slice_rows["matched"]["value"], slice_rows["matched"]["pairs"]) == (0.5, 2)
    assert slice_rows["balanced"] == 0.5


def test_each_pair_is_in_one_row_of_the_length_slices_though_reviewers_disagree():
    both_ways = item(1, [[0], [1], [2]], [50, 10, 30], [50, 10, 30])
    other = replace(both_ways.group.rankings[0], tiers=[[2], [1], [0]], reviewer="b")
    group = replace(both_ways.group, rankings=[*both_ways.group.rankings, other])
    rows = [
        replace(both_ways, group=group),
        item(2, [[0], [1]], [50, 10], [50, 10]),
        item(3, [[0], [1]], [100, 105], [100, 105]),
    ]
    slice_rows = length_slices(rows)
    pairs = {name: figure["pairs"] for name, figure in slice_rows.items() if name != "balanced"}
    assert pairs == {"matched": 1, "longer_won": 1, "shorter_won": 0, "contested": 3}
    assert sum(pairs.values()) == accuracy(rows)["pairs"]


def test_length_slices_without_pairs_are_undefined_with_reasons():
    slice_rows = length_slices([])
    assert slice_rows["balanced"] is None and slice_rows["matched"]["reason"]


# --- mistakes -------------------------------------------------------------------------------------


def test_the_worst_mistakes_come_first_one_of_a_prompt_and_only_real_ones():
    rows = [
        item(
            1, [[0], [1], [2]], [0.0, 1.0, 3.0]
        ),  # 2 leads 0 by 3, wrongly; other gaps are smaller
        item(2, [[0], [1]], [1.0, 0.0]),  # right
        item(3, [[0], [1]], [0.0, 5.0]),
        item(4, [("a", [[0], [1]]), ("b", [[1], [0]])], [9.0, 0.0]),  # no majority
        item(5, [[0, 1]], [9.0, 0.0]),  # a tie
    ]
    first, second = worst_mistakes(rows)
    assert (first["group_id"], first["gap"]) == ("g3", 5.0)
    assert (second["group_id"], second["preferred"]["text"]) == ("g1", "text 0")
    assert second["scored_higher"]["id"] == 2 and second["evidence"] == [1.0, 0.0]
    assert second["prompt"] == [{"role": "user", "text": "Question 1", "left_out": 0}]
    assert len(worst_mistakes(rows, most=1)) == 1


def test_long_texts_are_cut_and_omitted_characters_are_counted():
    wrong = item(1, [[0], [1]], [0.0, 1.0])
    long = replace(wrong.group, responses=["x" * (MAX_CHARACTERS + 7), "y"])
    [result] = worst_mistakes([replace(wrong, group=long)])
    assert (
        len(result["preferred"]["text"]) == MAX_CHARACTERS and result["preferred"]["left_out"] == 7
    )


def test_nothing_held_out_gives_no_mistakes():
    assert worst_mistakes([]) == []


def test_a_criterion_is_a_slice_of_the_pairs_rated_differently_by_it():
    def rated(number, ratings, scores):
        entry = item(number, [[0], [1]], scores)
        values = {str(k): {"tone": value} for k, value in enumerate(ratings)}
        return replace(entry, group=replace(entry.group, meta={"ratings": [values]}))

    scored = [rated(1, (5, 1), (2.0, 0.0)), rated(2, (1, 5), (2.0, 0.0)), rated(3, (3, 3), (2, 0))]
    (row,) = slices(scored)["criterion"]
    assert row["name"] == "tone"
    assert row["accuracy"]["value"] == 0.5 and row["accuracy"]["pairs"] == 2

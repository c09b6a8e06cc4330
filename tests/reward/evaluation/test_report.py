import json
import math

import numpy as np
import pytest

from labeling.statistics import intervals
from recipes.preferences.groups import Group, Judgment, strict_wins
from reward.evaluation import report
from reward.evaluation.figures import limit_to_show
from reward.evaluation.report import Scored


def scored(tiers_by_reviewer, scores, lengths=None, number=0, weights=None) -> Scored:
    count = len(scores)
    rankings = [
        Judgment(f"r{n}", tiers, weight=weights[n] if weights else 1.0)
        for n, tiers in enumerate(tiers_by_reviewer)
    ]
    group = Group(f"g{number}", [], list(range(count)), ["t"] * count, rankings, split="test")
    return Scored(group, np.array(scores, float), np.array(lengths or [1] * count, float))


def test_accuracy_counts_each_strict_judgment_with_its_weight():
    # Reviewer 0 (weight 1): 0 > 1 > 2. Reviewer 1 (weight 3): 2 > {0, 1}; the tie is not counted.
    item = scored([[[0], [1], [2]], [[2], [0, 1]]], [3.0, 1.0, 2.0], weights=[1.0, 3.0])
    # Right: 0>1 (1), 0>2 (1), 2>1 (3). All: 3 of reviewer 0 and 2 × 3 of reviewer 1.
    figure = report.accuracy([item])
    assert figure["value"] == pytest.approx(5 / 9)
    assert (figure["pairs"], figure["prompts"]) == (3, 1)


def test_equal_scores_are_half_right():
    assert report.accuracy([scored([[[0], [1]]], [1.0, 1.0])])["value"] == 0.5


def test_ties_alone_leave_accuracy_undefined_with_a_reason():
    figure = report.accuracy([scored([[[0, 1]]], [1.0, 0.0])])
    assert figure["value"] is None and figure["interval"] is None
    assert figure["reason"] == "No two responses were strictly ordered."


def test_reviewer_agreement_compares_pairs_that_both_ordered_strictly():
    # 0 > 1 > 2 against 0 > {1, 2}: they share 0>1 and 0>2 (same); 1 and 2 tie for one of them.
    # Against 2 > 1 > 0: all three pairs turned; the second and third share 0-1 and 0-2, turned.
    tiers = [[[0], [1], [2]], [[0], [1, 2]], [[2], [1], [0]]]
    figure = report.reviewer_agreement([scored(tiers, [0, 0, 0]).group])
    assert figure["value"] == pytest.approx(2 / (2 + 3 + 2))


def test_agreement_weighs_reviewers_as_accuracy_does():
    # a and b (weights 3 and 1) agree: 2. a and c: 2 against. b and c: 1 against. Of 5.
    item = scored([[[0], [1]], [[0], [1]], [[1], [0]]], [0, 0], weights=[3.0, 1.0, 1.0])
    assert report.reviewer_agreement([item.group])["value"] == pytest.approx(2 / 5)


def test_one_reviewer_has_no_agreement():
    figure = report.reviewer_agreement([scored([[[0], [1]]], [0, 0]).group])
    assert figure["reason"] == "No two reviewers both ordered the same pair without a tie."
    assert figure["value"] is None and figure["reason"]


def test_wilson_agrees_with_a_published_example():
    # 8 of 10 successes: 0.490 to 0.943 (Brown, Cai & DasGupta 2001 use the same form).
    assert intervals.wilson(0.8, 10) == pytest.approx([0.4902, 0.9433], abs=1e-4)


def test_a_few_perfect_prompts_have_a_wide_interval():
    figure = report.accuracy([scored([[[0], [1]]], [1.0, 0.0], number=n) for n in range(4)])
    assert figure["value"] == 1.0
    assert figure["interval"] == pytest.approx([0.5101, 1.0], abs=1e-4)
    assert figure["method"] == "wilson"


def test_the_interval_resamples_prompts_not_pairs():
    right = [scored([[[0], [1], [2]]], [3.0, 2.0, 1.0], number=n) for n in range(20)]
    wrong = [scored([[[0], [1], [2]]], [1.0, 2.0, 3.0], number=n) for n in range(20)]
    figure = report.accuracy(right + wrong)
    low, high = figure["interval"]
    # Forty prompts, each all right or all wrong: half-width 1.96 · √(¼/40) = 0.155, though there
    # are 120 pairs, which would give 0.089.
    assert figure["method"] == "bootstrap"
    assert (high - low) / 2 == pytest.approx(0.155, abs=0.02)
    assert report.accuracy(right + wrong)["interval"] == [low, high]


def test_calibration_bins_pairs_by_the_models_probability():
    # σ(0) = 0.5 and σ(2) = 0.8808. Twenty pairs at 2 won 15 times, five at 0.
    sure = [scored([[[0], [1]]], [2.0, 0.0], number=n) for n in range(15)]
    sure += [scored([[[1], [0]]], [2.0, 0.0], number=n) for n in range(5)]
    unsure = [scored([[[1], [0]]], [0.0, 0.0], number=n) for n in range(5)]
    figure = report.calibration(sure + unsure)
    first, fourth = figure["bins"][0], figure["bins"][3]
    assert (first["pairs"], first["predicted"], first["observed"]) == (5, 0.5, 0.5)
    assert (fourth["pairs"], fourth["observed"]) == (20, 0.75)
    assert figure["ece"] == pytest.approx((20 * (1 / (1 + math.exp(-2)) - 0.75) + 5 * 0) / 25)


def test_the_calibration_error_by_chance_falls_with_the_number_of_pairs():
    rng = np.random.default_rng(0)

    def chance(pairs: int, reviewers: int = 1) -> float:
        gaps = enumerate(rng.normal(size=pairs))
        rows = [scored([[[0], [1]]] * reviewers, [gap, 0.0], number=n) for n, gap in gaps]
        return report.calibration(rows)["ece_by_chance"]

    assert 0.05 < chance(60) < 0.2 and chance(6000) < 0.02
    assert chance(60, reviewers=9) == pytest.approx(chance(60) / 3, rel=0.3)
    # A model that is certain of every pair has no calibration error by chance.
    sure = [scored([[[0], [1]]], [90.0, 0.0], number=n) for n in range(30)]
    assert report.calibration(sure)["ece_by_chance"] == pytest.approx(0.0)


def test_ties_that_are_a_separate_outcome_are_left_out_of_calibration():
    rows = [scored([[[0], [1]]], [2.0, 0.0], number=n) for n in range(30)]
    rows += [scored([[[0, 1]]], [2.0, 0.0], number=n) for n in range(30)]
    sure = 1 / (1 + math.exp(-2))
    assert report.calibration(rows)["ece"] == pytest.approx(sure - 0.75)
    assert report.calibration(rows, strict_wins)["ece"] == pytest.approx(1 - sure)
    assert report.quality(rows, 0, strict_wins)["calibration"]["pairs"] == 30


def test_the_limit_follows_from_how_often_reviewers_agree():
    # Of two pairs, two reviewers agree on the one and differ on the other: (1 + √0) / 2.
    rows = [scored([[[0], [1]]] * 2, [1.0, 0.0]), scored([[[0], [1]], [[1], [0]]], [1.0, 0.0])]
    assert report.quality(rows)["accuracy_limit"]["value"] == 0.5
    assert report.quality(rows[:1])["accuracy_limit"]["value"] == 1.0
    alone = report.quality([scored([[[0], [1]]], [1.0, 0.0])])["accuracy_limit"]
    assert alone["value"] is None and "No two reviewers" in alone["reason"]


def test_a_limit_is_reported_only_where_it_applies():
    limited = {"accuracy": {"value": 0.8}, "accuracy_limit": {"interval": [0.85, 0.9]}}
    assert limit_to_show(limited) == 0.9
    assert limit_to_show({**limited, "accuracy": {"value": 0.95}}) is None
    assert limit_to_show({**limited, "accuracy_limit": {"interval": [0.9, 1.0]}}) is None
    assert limit_to_show({"accuracy_limit": {"interval": None}}) is None


def test_a_bootstrap_in_blocks_gives_the_same_result(monkeypatch):
    whole = np.concatenate(list(intervals.resamples(50, 3, 20)))
    monkeypatch.setattr(intervals, "MAX_BATCH_RESAMPLES", 150)
    pieces = list(intervals.resamples(50, 3, 20))
    assert [len(piece) for piece in pieces] == [3] * 6 + [2]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_calibration_of_too_few_pairs_has_no_value():
    figure = report.calibration([scored([[[0], [1]]], [2.0, 0.0])])
    assert figure["ece"] is None and "too few" in figure["reason"]


def test_spearman_gives_ties_their_mean_rank():
    assert report.ranks(np.array([10, 20, 20, 5])).tolist() == [2.0, 3.5, 3.5, 1.0]
    # Ranks 1 2.5 2.5 4 against 1 2 3 4: 4.5 / √(4.5 · 5) = 0.948683
    figure = report.spearman(np.array([1, 2, 2, 3]), np.array([1, 2, 3, 4]))
    assert figure == pytest.approx(0.9486833)
    assert report.spearman(np.array([1, 1, 1]), np.array([1, 2, 3])) is None


def test_length_is_correlated_within_prompts():
    # Across prompts longer is better; inside each prompt it is worse.
    items = [
        scored([[[0], [1]]], [10.0 * n + 1, 10.0 * n], [10 * n + 1, 10 * n + 2], number=n)
        for n in range(12)
    ]
    figure = report.length_correlation(items, lambda s: s.scores, 0)
    assert figure["value"] == pytest.approx(-1.0)
    assert figure["interval"] == pytest.approx([-1.0, -1.0])


def test_win_share_counts_ties_as_half():
    group = scored([[[0], [1, 2]]], [0, 0, 0]).group
    assert report.win_share(group).tolist() == [1.0, 0.25, 0.25]


@pytest.mark.parametrize(
    "items", [[], [scored([[[0], [1]]], [1.0, 0.0])], [scored([[[0, 1]]], [1, 0])]]
)
def test_little_or_no_held_out_data_gives_valid_json(items):
    text = json.dumps(report.quality(items), allow_nan=False)
    assert json.loads(text)["calibration"]["ece"] is None

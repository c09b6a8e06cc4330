"""Tests of win rates against examples by hand."""

import pytest

from finetune.statistics.means import mean_difference
from finetune.statistics.win_rate import outcome, win_rate


def test_a_tie_is_half_a_win():
    figure = win_rate([("a", 1.0), ("b", 0.5), ("c", 0.5), ("d", 0.0)])
    assert figure["value"] == 0.5
    assert (figure["wins"], figure["ties"], figure["losses"]) == (1, 2, 1)


def test_few_prompts_get_wilsons_interval():
    """3 wins of 4, z = 1.96: centre (0.75 + 0.4802) / 1.9604 = 0.6275, half-width 0.3270."""
    figure = win_rate([("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 0.0)])
    assert figure["method"] == "wilson"
    assert figure["interval"] == pytest.approx([0.3006, 0.9544], abs=2e-4)


def test_a_perfect_win_rate_has_an_interval():
    """Wilson with 100 of 100: low = 100 / (100 + 1.96²) = 0.9630."""
    figure = win_rate([(n, 1.0) for n in range(100)])
    assert figure["interval"] == pytest.approx([0.9630, 1.0], abs=1e-4)


def test_many_prompts_get_an_interval_near_the_normal_one():
    """60 of 100 independent: 0.6 ± 1.96·√(0.24/100) = 0.6 ± 0.096."""
    figure = win_rate([(n, 1.0 if n < 60 else 0.0) for n in range(100)])
    assert figure["method"] == "bootstrap"
    assert figure["interval"] == pytest.approx([0.504, 0.696], abs=0.02)


def test_answers_to_one_prompt_do_not_narrow_the_interval_as_prompts_do():
    """Check that eight equal outcomes of a prompt count no more than one."""
    once = win_rate([(n, float(n % 2)) for n in range(40)])
    often = win_rate([(n, float(n % 2)) for n in range(40) for _ in range(8)])
    assert often["answers"] == 320
    assert often["prompts"] == once["prompts"] == 40
    assert often["interval"] == pytest.approx(once["interval"], abs=1e-9)


def test_prompts_with_more_answers_count_for_more():
    assert win_rate([("a", 1.0), ("a", 1.0), ("a", 1.0), ("b", 0.0)])["value"] == 0.75


def test_a_comparison_without_prompts_is_explained():
    figure = win_rate([])
    assert figure["value"] is None
    assert figure["interval"] is None
    assert figure["reason"]


def test_an_unknown_outcome_is_refused():
    with pytest.raises(ValueError, match=r"0\.5 for a tie"):
        win_rate([("a", 0.7)])


def test_the_interval_is_the_same_each_time():
    rows = [(n, float(n % 3 == 0)) for n in range(50)]
    assert win_rate(rows, seed=3) == win_rate(rows, seed=3)


def test_the_higher_score_wins_and_near_equals_tie():
    assert outcome(2.0, 1.0) == 1.0
    assert outcome(1.0, 2.0) == 0.0
    assert outcome(1.0, 1.0) == 0.5
    assert outcome(1.04, 1.0, tie_within=0.05) == 0.5


def test_a_difference_in_length_has_its_sign_and_means():
    figure = mean_difference([("a", 10.0, 14.0), ("b", 12.0, 12.0), ("c", 8.0, 10.0)])
    assert figure["value"] == -2.0
    assert (figure["candidate"], figure["baseline"]) == (10.0, 12.0)
    assert figure["interval"][0] <= -2.0 <= figure["interval"][1]


def test_one_prompt_gives_a_difference_but_no_interval():
    figure = mean_difference([("a", 10.0, 14.0), ("a", 12.0, 12.0)])
    assert (figure["value"], figure["interval"]) == (-2.0, None)

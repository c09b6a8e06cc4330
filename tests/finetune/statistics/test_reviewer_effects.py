"""Tests of the win rate over reviewers in general: numbers worked by hand, and simulated coverage."""

import math

import numpy as np
import pytest

from finetune.statistics.reviewer_effects import general_rate, t95


def test_three_reviewers_are_worked_by_hand():
    """Win rates 1, ½ and ¾: m = ¾, s = ¼, and t = 4.3027 for 2 degrees of freedom."""
    verdicts = [("ann", 1, 1.0), ("ann", 2, 1.0), ("bob", 3, 0.5), ("cy", 4, 1.0), ("cy", 5, 0.5)]
    rate = general_rate(verdicts)
    half = 4.3027 * 0.25 / math.sqrt(3)
    assert (rate.reviewers, rate.mean) == (3, 0.75)
    assert rate.interval == pytest.approx((0.75 - half, 1.0))


def test_each_reviewer_has_the_same_weight():
    many = [("ann", n, 1.0) for n in range(50)] + [("bob", 99, 0.0)]
    assert general_rate(many).mean == 0.5


@pytest.mark.parametrize("verdicts", [[], [("ann", 1, 1.0), ("ann", 2, 0.0)]])
def test_one_reviewer_says_nothing_about_others(verdicts):
    assert general_rate(verdicts) is None


def test_the_quantiles_continue_without_a_step():
    assert t95(1) == 12.7062
    assert t95(30) > t95(31) == pytest.approx(2.0395, abs=1e-4)
    assert t95(100_000) == pytest.approx(1.96, abs=1e-3)


@pytest.mark.parametrize("reviewers", [3, 5, 12])
def test_nineteen_of_twenty_intervals_contain_the_win_rate_of_all_reviewers(reviewers):
    """Reviewers' win rates vary with a standard deviation of 12 points around 58%, by 60 verdicts each."""
    rng, simulations = np.random.default_rng(reviewers), 2000
    covered = 0
    for _ in range(simulations):
        rates = np.clip(rng.normal(0.58, 0.12, reviewers), 0, 1)
        wins = rng.binomial(60, rates)
        verdicts = [
            (reviewer, (reviewer, n), float(n < won))
            for reviewer, won in enumerate(wins)
            for n in range(60)
        ]
        low, high = general_rate(verdicts).interval
        covered += low <= 0.58 <= high
    assert 0.935 < covered / simulations < 0.965


def test_verdicts_on_the_same_prompts_share_the_luck_of_these_prompts():
    """Two reviewers who agree on 4 prompts: the means of prompts 1, 1, 0, 1 have the variance ¼."""
    verdicts = [(who, n, v) for who in ("ann", "bob") for n, v in enumerate((1.0, 1.0, 0.0, 1.0))]
    rate = general_rate(verdicts)
    assert rate.interval == pytest.approx((0.75 - 1.959964 * 0.25, 1.0))

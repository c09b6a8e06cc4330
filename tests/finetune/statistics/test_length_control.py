"""Tests of the length-controlled win rate: numbers worked by hand, and simulated reviewers."""

import numpy as np
import pytest

from finetune.statistics.length_control import length_controlled


def drawn(rng, prompts, *, theta, slope, shift, spread=0.4):
    """Return rows of reviewers with this θ and β; the log ratio of lengths is N(shift, spread²)."""
    baseline = rng.integers(50, 150, prompts)
    candidate = np.maximum(1, baseline * np.exp(rng.normal(shift, spread, prompts))).astype(int)
    x = np.log((candidate + 1) / (baseline + 1))
    wins = rng.random(prompts) < 1 / (1 + np.exp(-(theta + slope * x)))
    return list(zip(wins.astype(float), candidate.tolist(), baseline.tolist(), strict=True))


def test_at_equal_lengths_it_is_the_win_rate_with_half_a_win_and_half_a_loss_more():
    """8 wins, 2 ties and 2 losses: (8 + 1 + ½) / 13."""
    rows = [(1.0, 9, 9)] * 8 + [(0.5, 9, 9)] * 2 + [(0.0, 9, 9)] * 2
    result = length_controlled(rows)
    assert result.rate == pytest.approx(9.5 / 13) and result.slope == 0.0
    assert result.interval[0] < result.rate < result.interval[1]


def test_a_winner_by_length_alone_has_no_win_left():
    rng, passed, raw = np.random.default_rng(0), 0, []
    for _ in range(300):
        rows = drawn(rng, 300, theta=0.0, slope=2.0, shift=0.3)
        raw.append(np.mean([row[0] for row in rows]))
        passed += length_controlled(rows).interval[0] > 0.5
    assert np.mean(raw) > 0.6 and passed / 300 < 0.06


def test_a_win_with_longer_answers_throughout_is_not_a_proof():
    same = length_controlled([(1.0, 10, 10)] * 30)
    longer = length_controlled([(1.0, 15, 10)] * 30)
    shorter = length_controlled([(1.0, 10, 15)] * 30)
    assert same.interval[0] > 0.5 > longer.interval[0]
    assert [r.may_explain_a_win for r in (same, longer, shorter)] == [False, True, False]


@pytest.mark.parametrize(("theta", "slope"), [(0.32, 0.0), (0.32, 1.5), (-0.5, 1.0)])
def test_nineteen_of_twenty_intervals_contain_the_rate_at_equal_length(theta, slope):
    rng, covered, truth = np.random.default_rng(1), 0, 1 / (1 + np.exp(-theta))
    for _ in range(500):
        low, high = length_controlled(drawn(rng, 300, theta=theta, slope=slope, shift=0.2)).interval
        covered += low <= truth <= high
    assert 0.93 <= covered / 500 <= 0.975


def test_the_slope_gives_the_win_rate_of_an_answer_twice_as_long():
    rows = drawn(np.random.default_rng(2), 5000, theta=0.0, slope=1.0, shift=0.0)
    assert length_controlled(rows).rate_at_double_length == pytest.approx(2 / 3, abs=0.03)


def test_odd_rows_are_answered():
    assert length_controlled([]) is None
    for rows in ([(1.0, 0, 0)], [(0.0, 100_000, 0)], [(1.0, 5, 5000)] * 3, [(0.5, 1, 9)] * 50):
        result = length_controlled(rows)
        assert 0 <= result.interval[0] <= result.rate <= result.interval[1] <= 1

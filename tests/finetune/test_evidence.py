"""Tests of the evidence of an evaluation: numbers worked by hand, and simulated error rates."""

import math
from itertools import product

import numpy as np
import pytest

from finetune.evidence import (
    Conclusion,
    evidence_of,
    forecast,
    log_capital,
    share_of_alpha,
    units_of,
)

SIMULATIONS, PROMPTS = 4000, 500


def evidence(units, alpha=0.05, margin=0.05):
    return evidence_of(np.array(units, dtype=float), alpha=alpha, margin=margin)


def test_capital_after_a_win_a_tie_and_a_loss():
    """Σ w·c = 2(0.03 + 0.1 + 0.24 + 0.24 + 0.3 + 0.3 + 0.2125)/11 = 0.258636; a tie at m = ½ pays 0."""
    win, tie, loss = (math.exp(log_capital(np.array([x]), 0.5)[0]) for x in (1.0, 0.5, 0.0))
    assert (win, tie, loss) == pytest.approx((1.258636, 1.0, 0.741364), abs=1e-6)


def test_capital_at_another_mean_is_worked_by_hand():
    """A win at m = ¼ pays 1 - c + 4c, so W = 1 + 3·0.258636. A unit of ¼ pays nothing."""
    assert math.exp(log_capital(np.array([1.0]), 0.25)[0]) == pytest.approx(1.775909, abs=1e-6)
    assert log_capital(np.array([0.25, 0.25]), 0.25) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_a_fair_game_keeps_the_capital_on_average():
    sequences = np.array(list(product([0.0, 0.5, 1.0], repeat=7)))
    assert np.exp(log_capital(sequences, 0.5)[:, -1]).mean() == pytest.approx(1.0, abs=1e-12)


def test_eleven_wins_prove_a_better_model():
    """At α = 0.04 the threshold is 2/0.04 = 50: Σ w (1 + c)ⁿ is 38.7 for 10 wins and 65.0 for 11."""
    capital = np.exp(evidence([1] * 12, alpha=0.04).log_better)
    assert capital[[9, 10]] == pytest.approx([38.685, 65.028], abs=1e-3)
    result = evidence([1] * 12, alpha=0.04)
    assert (result.conclusion, result.decided_after) == (Conclusion.BETTER, 11)


def test_eleven_losses_prove_a_worse_model():
    result = evidence([0] * 12, alpha=0.04)
    assert (result.conclusion, result.decided_after) == (Conclusion.WORSE, 11)
    assert result.log_worse == pytest.approx(evidence([1] * 12, alpha=0.04).log_better)


def test_ties_prove_that_a_model_is_not_worse_but_never_that_it_is_better():
    result = evidence([0.5] * 400)
    assert result.conclusion is Conclusion.NOT_WORSE
    assert result.decided_after is not None and result.decided_after > 1
    low, high = result.interval
    assert 0.45 < low < 0.5 < high < 0.55


def test_no_verdicts_prove_nothing():
    result = evidence([])
    assert (result.conclusion, result.interval, result.mean) == (
        Conclusion.UNDECIDED, (0.0, 1.0), None,
    )  # fmt: skip


def test_a_proven_claim_is_not_withdrawn():
    result = evidence([1] * 20 + [0] * 12)
    assert result.conclusion is Conclusion.BETTER
    assert result.low[-1] > 0.5
    assert np.all(np.diff(result.low) >= 0) and np.all(np.diff(result.high) <= 0)


def test_the_bounds_are_the_means_that_the_capital_refutes():
    units = np.random.default_rng(1).choice([0.0, 0.25, 0.5, 1.0], 150, p=[0.2, 0.1, 0.2, 0.5])
    result = evidence(units)
    for m in (0.3, 0.45, 0.5, 0.55, 0.62, 0.7, 0.8):
        refuted = log_capital(units, m) >= result.threshold
        assert (result.low[-1] >= m) == refuted.any()
        refuted_above = log_capital(1 - units, 1 - m) >= result.threshold
        assert (result.high[-1] <= m) == refuted_above.any()


def test_the_conclusion_agrees_with_the_interval():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rate = rng.uniform(0.3, 0.7)
        result = evidence(rng.random(400) < rate, margin=0.04)
        low, high = result.interval
        conclusion = result.conclusion
        assert (conclusion is Conclusion.BETTER) == (low > 0.5)
        assert (conclusion is Conclusion.WORSE) == (high < 0.5)
        if conclusion is Conclusion.NOT_WORSE:
            assert low > 0.46


def test_verdicts_on_one_prompt_are_one_unit():
    units = units_of([("b", 1.0), ("a", 0.0), ("b", 0.0), ("b", 0.5), ("a", 0.0)])
    assert units.tolist() == [0.5, 0.0]


def test_equal_models_are_rarely_called_better_at_any_time():
    """Half of α = 5% is on each side. 4,000 evaluations, read after each of 500 verdicts."""
    rng = np.random.default_rng(2)
    units = rng.choice([0.0, 0.5, 1.0], (SIMULATIONS, PROMPTS), p=[0.35, 0.3, 0.35])
    called_better = (log_capital(units, 0.5) >= math.log(2 / 0.05)).any(axis=1)
    assert 0.005 < called_better.mean() < 0.025


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_the_interval_contains_the_win_rate_at_all_times(rate):
    rng = np.random.default_rng(3)
    units = (rng.random((SIMULATIONS, PROMPTS)) < rate).astype(float)
    below = log_capital(units, rate).max(axis=1) >= math.log(2 / 0.05)
    above = log_capital(1 - units, 1 - rate).max(axis=1) >= math.log(2 / 0.05)
    assert 0.95 < 1 - (below | above).mean() < 0.995


def test_the_forecast_equals_a_count_of_all_sequences():
    """With α = 0.4, sequences of 12 verdicts decide often enough at a win rate of 0.92."""
    sequences = np.array(list(product([0.0, 1.0], repeat=12)))
    chances = np.prod(np.where(sequences == 1, 0.92, 0.08), axis=1)
    decided = log_capital(sequences, 0.5) >= math.log(2 / 0.4)
    by_then = [float(chances[decided[:, :n].any(axis=1)].sum()) for n in range(1, 13)]
    prediction = forecast(0.42, 0.4)
    assert prediction.median == next(n for n, p in enumerate(by_then, start=1) if p >= 0.5)
    assert prediction.p90 == next(n for n, p in enumerate(by_then, start=1) if p >= 0.9)


def test_a_forecast_falls_with_the_gain_and_ends_at_the_maximum():
    predictions = [forecast(gain, 0.04) for gain in (0.05, 0.08, 0.12)]
    assert [p.median for p in predictions] == sorted([p.median for p in predictions], reverse=True)
    assert predictions[1].median is not None and predictions[1].median <= 300
    short = forecast(0.05, 0.04, 200)
    assert (short.median, short.p90) == (None, None)


def test_attempts_share_one_error_rate():
    """4/5, 4/25 and 4/125 of 0.05."""
    shares = [share_of_alpha(0.05, attempt) for attempt in (1, 2, 3)]
    assert shares == pytest.approx([0.04, 0.008, 0.0016])
    assert sum(share_of_alpha(0.05, attempt) for attempt in range(1, 60)) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: units_of([("a", 1.5)]), "between 0 and 1; this is 1.5"),
        (lambda: evidence([1], alpha=1.0), "error rate"),
        (lambda: evidence([1], margin=0.5), "margin"),
        (lambda: log_capital(np.ones(1), 1.0), "hypothetical mean"),
        (lambda: share_of_alpha(0.05, 0), "counted from 1"),
    ],
)
def test_values_outside_their_range_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()

"""Tests of the evidence of an evaluation: numbers worked by hand, and simulated error rates."""

import math
from itertools import product

import numpy as np
import pytest

from finetune.statistics.evidence import (
    STAKES,
    WEIGHTS,
    AskedPrompt,
    Conclusion,
    JudgedPrompt,
    complete,
    evidence_of,
    excess_of_prompts,
    forecast,
    judge_value,
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


# --- a judge as control variate ------------------------------------------------------------------


def judged_prompts(*rows):
    return [
        JudgedPrompt(prompt, block, asked, value)
        for prompt, (block, asked, value) in enumerate(rows)
    ]


def test_the_excess_is_the_judges_value_minus_the_mean_of_the_other_prompts():
    """Prompt 1 has 1.0 - (0.0 + 0.6)/2, and prompt 2 has 0.5 - 0.3."""
    rows = [(7, False, 0.0), (7, True, 1.0), (8, True, 0.5), (7, False, 0.6), (8, False, 0.3)]
    assert excess_of_prompts(judged_prompts(*rows)) == pytest.approx({1: 0.7, 2: 0.2})


@pytest.mark.parametrize(
    "rows", [[], [(0, True, 1.0)], [(0, True, 1.0), (1, False, 0.5)], [(0, False, 1.0)]]
)
def test_without_another_prompt_in_each_block_there_is_no_excess(rows):
    assert excess_of_prompts(judged_prompts(*rows)) is None


def test_the_value_of_a_reward_model_is_a_probability():
    scores = (1.0, 1.0 + math.log(3))
    assert judge_value(1.0, scores, graded=True) == pytest.approx(0.75)
    assert judge_value(1.0, scores, graded=False) == 1.0
    assert judge_value(0.5, (None, None), graded=True) == 0.5


def capital_by_loop(units, excess, m):
    """Return W(m) after the last unit, by the formulas of the module, one unit after the other."""
    total = 0.0
    for stake, weight in zip(STAKES, WEIGHTS, strict=True):
        capital, products, squares, rest, all_ = 1.0, 0.5, 1.0, 5 * 0.85, 5.0
        for x, d in zip(units, excess, strict=True):
            slope = min(max(products / squares, 0.0), 1.0)
            scale = (1 + 2 * slope) / min(max(rest / all_, 0.3), 1.2)
            payoff = x - slope * d
            capital *= 1 + min(stake * scale, 0.95) * (payoff - m) / (m + slope)
            products, squares = products + (x - 0.5) * d, squares + d * d
            rest, all_ = rest + (x - 0.5 - slope * d) ** 2, all_ + (x - 0.5) ** 2
        total += weight * capital
    return total


@pytest.mark.parametrize("m", [0.45, 0.5, 0.7])
def test_capital_with_a_judge_equals_a_plain_loop(m):
    rng = np.random.default_rng(4)
    units, excess = rng.choice([0.0, 0.5, 1.0], 60), rng.uniform(-1, 1, 60)
    assert math.exp(log_capital(units, m, excess)[-1]) == pytest.approx(
        capital_by_loop(units, excess, m)
    )


def test_with_a_judge_the_game_is_fair_too():
    """Verdict and judge's value of two independent prompts, at each step: all combinations."""
    step = [(x, own - other) for x in (0.0, 1.0) for own in (0.0, 1.0) for other in (0.0, 1.0)]
    games = np.array(list(product(step, repeat=4)))
    capital = np.exp(log_capital(games[..., 0], 0.5, games[..., 1])[:, -1])
    assert capital.mean() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("kind", ["copies people", "opposes people", "always high", "extreme"])
def test_no_judge_can_make_a_bet_lose_everything_or_a_bound_move_back(kind):
    rng = np.random.default_rng(5)
    units = (rng.random(200) < 0.7).astype(float)
    excess = {
        "copies people": units - 0.7,
        "opposes people": 0.7 - units,
        "always high": np.full(200, 0.9),
        "extreme": rng.choice([-1.0, 1.0], 200),
    }[kind]
    result = evidence_of(units, alpha=0.05, margin=0.05, excess=excess)
    assert np.isfinite(result.log_better).all() and np.isfinite(result.log_worse).all()
    assert (np.diff(result.low) >= 0).all() and (np.diff(result.high) <= 0).all()


def judged(rng, evaluations, prompts, rate, bias=0.0):
    """Return verdicts, and the excess of a judge that knows each prompt's chance, plus a bias."""
    chance = rng.beta(2 * rate, 2 * (1 - rate), (evaluations, prompts, 4))
    values = np.minimum(chance + bias, 1.0)
    units = (rng.random((evaluations, prompts)) < chance[..., 0]).astype(float)
    return units, values[..., 0] - values[..., 1:].mean(axis=-1)


@pytest.mark.parametrize("bias", [0.0, 0.4])
def test_a_judge_does_not_make_equal_models_look_different(bias):
    units, excess = judged(np.random.default_rng(6), 2000, PROMPTS, 0.5, bias)
    called_better = (log_capital(units, 0.5, excess) >= math.log(2 / 0.05)).any(axis=1)
    assert 0.003 < called_better.mean() < 0.025


def test_a_good_judge_saves_a_fifth_of_the_verdicts():
    units, excess = judged(np.random.default_rng(7), 2000, 700, 0.58)
    medians = []
    for of_judge in (None, excess):
        proven = log_capital(units, 0.5, of_judge) >= math.log(2 / 0.04)
        medians.append(np.median(np.where(proven.any(axis=1), proven.argmax(axis=1), 700)))
    assert medians[1] < 0.8 * medians[0]


def test_the_bounds_with_a_judge_are_the_means_that_the_capital_refutes():
    units, excess = judged(np.random.default_rng(8), 1, 150, 0.65)
    units, excess = units[0], excess[0]
    result = evidence_of(units, alpha=0.05, margin=0.05, excess=excess)
    for m in (0.3, 0.45, 0.5, 0.55, 0.62, 0.7, 0.8):
        refuted = log_capital(units, m, excess) >= result.threshold
        assert (result.low[-1] >= m) == refuted.any()
        refuted_above = log_capital(1 - units, 1 - m, -excess) >= result.threshold
        assert (result.high[-1] <= m) == refuted_above.any()


# --- forecast ------------------------------------------------------------------------------------


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


# --- a judge that orders the prompts --------------------------------------------------------------


def asked_in_blocks(prompts, size, absent=()):
    return [AskedPrompt(p, n // size, p in absent) for n, p in enumerate(prompts)]


def test_a_block_counts_once_it_is_complete_and_in_random_order():
    asked = asked_in_blocks("abcdef", 3)
    verdicts = [("c", "C"), ("f", "F"), ("a", "A"), ("e", "E"), ("d", "D")]
    assert complete(verdicts, 1, asked) == ["D", "E", "F"]
    assert complete([*verdicts, ("b", "B")], 1, asked) == ["D", "E", "F", "A", "B", "C"]


def test_a_withdrawn_prompt_does_not_hold_up_its_block_and_its_verdict_counts():
    asked = asked_in_blocks("abc", 3, absent="ab")
    assert complete([("c", "C")], 1, asked) == ["C"]
    assert complete([("c", "C"), ("a", "A")], 1, asked) == ["A", "C"]
    assert complete([("a", "A")], 1, asked) == []


def test_an_order_by_the_judge_does_not_change_which_verdicts_count():
    rng = np.random.default_rng(0)
    prompts = list(range(47))
    asked = asked_in_blocks(prompts, 10)
    certainty = rng.random(47)
    ordered = sorted(prompts, key=lambda p: (p // 10, certainty[p]))
    assert complete([(p, p) for p in ordered], 1, asked) == prompts

"""Tests of the benchmark of evaluations on numbers worked by hand."""

import json

import numpy as np
import pytest

from benchmarks import gate
from benchmarks.gate import (
    CASES,
    CROWD,
    JUDGES,
    Case,
    attempt_until_better,
    judged_units,
    measure,
    measure_judged,
    quantile,
)
from benchmarks.support.gate_intervals import INTERVALS, measure_interval


def test_the_benchmark_ends_with_one_line_of_json(capfd):
    assert gate.main(["--evaluations", "5", "--prompts", "40"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["name"] == "gate" and {"commit", "hardware"} <= result.keys()
    assert len(result["cases"]) == len(CASES) + len(INTERVALS)
    fields = {"true_win_rate", "evaluations", "alpha", "false_better", "median_verdicts",
              "p90_verdicts", "judge", "coverage"}  # fmt: skip
    assert all(fields <= case.keys() for case in result["cases"])


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if not case.judge and case.name != "wrong: candidate always first"],
)
def test_each_kind_of_reviewer_has_the_win_rate_of_its_case(case):
    units = case.simulate(np.random.default_rng(0), 400, 400, case.rate)
    assert units.mean() == pytest.approx(case.rate, abs=0.005)
    assert units.min() >= 0 and units.max() <= 1


def test_verdicts_on_one_prompt_are_correlated():
    """Var of the mean of 4 with correlation 1/3: ¼·(1 + 3/3)/4 = 0.125; independent: 0.0625."""
    units = gate.crowd(np.random.default_rng(0), 400, 400, 0.5)
    assert units.var() == pytest.approx(0.125, abs=0.003)


def test_a_certain_winner_is_found_after_eleven_prompts_and_four_verdicts_each():
    def wins(rng, evaluations, prompts, rate):
        return np.ones((evaluations, prompts))

    case = Case("wins", wins, rate=0.99, verdicts_per_prompt=CROWD)
    reading = attempt_until_better(case, np.random.default_rng(0), 3, 20)
    assert reading.better_after.tolist() == [11, 11, 11]


def test_a_later_attempt_counts_the_prompts_of_the_earlier_ones():
    attempts = iter([np.full((1, 20), 0.5), np.ones((1, 20))])
    case = Case("second", lambda *args: next(attempts), attempts=2)
    [after] = attempt_until_better(case, np.random.default_rng(0), 1, 20).better_after
    assert 20 + 11 < after <= 40  # a second attempt needs more wins than a first one


def test_a_fixed_interval_read_repeatedly_is_wrong_more_often_than_the_evidence():
    by_name = {case.name: case for case in CASES if case.rate == 0.5}
    interval = by_name["wrong: 95% interval read after every tenth"]
    honest = measure(by_name["single"], 500, 400, 0)
    assert honest["false_better"] <= honest["promised"]
    assert measure(interval, 500, 400, 0)["false_better"] > 4 * honest["promised"]


def test_quantiles_count_evaluations_that_never_claim():
    after = np.array([0, 0, 30, 10, 20])
    assert (quantile(after, 0.5), quantile(after, 0.6), quantile(after, 0.9)) == (30, 30, None)


def test_only_the_cases_with_a_text_are_measured(capfd):
    assert gate.main(["--evaluations", "20", "--prompts", "40", "--only", "opposed"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert [case["judge"] for case in result["cases"]] == ["opposed", "opposed"]


@pytest.mark.parametrize("judge", ["graded, agrees in 75%", "binary, agrees in 75%"])
def test_the_judges_agree_with_as_many_verdicts_as_their_names_say(judge):
    drawn = judged_units(np.random.default_rng(0), 200, 400, 0.58, JUDGES[judge])
    assert drawn.agreement == pytest.approx(0.75, abs=0.005)
    assert drawn.units.mean() == pytest.approx(0.58, abs=0.005)


@pytest.mark.parametrize("judge", JUDGES)
def test_the_excess_of_each_judge_has_the_mean_zero(judge):
    excess = judged_units(np.random.default_rng(1), 200, 400, 0.5, JUDGES[judge]).excess
    assert excess.mean() == pytest.approx(0.0, abs=0.006)


def test_a_case_with_a_judge_reports_what_it_saves():
    case = Case("single", gate.single, 0.58, judge="graded, agrees in 75%")
    result = measure_judged(case, case.judge, np.random.default_rng(0), [300], 800)
    assert 0.15 < result["saved"] < 0.45 and result["judge"] == case.judge


@pytest.mark.parametrize("rate", [0.5, 0.58])
def test_the_claims_from_counted_wins_are_those_of_the_evidence(rate):
    units = (np.random.default_rng(0).random((40, 300)) < rate).astype(float)
    reading = gate.read_evidence(units, rate, 0.3)
    better, below, above = (
        gate.log_capital(values, m) >= np.log(2 / 0.3)
        for values, m in ((units, 0.5), (units, rate), (1 - units, 1 - rate))
    )
    assert reading.better_after.tolist() == gate.first_true(better).tolist()
    assert reading.covered.tolist() == (~(below | above)).all(axis=1).tolist()
    assert reading.better_after.any()


def test_an_order_by_the_judge_is_read_at_the_ends_of_blocks():
    units = np.ones((1, 25))
    assert gate.read_evidence(units, 0.5, 0.04).better_after.tolist() == [11]
    assert gate.read_blocks(units, 0.5, 0.04).better_after.tolist() == [20]


def test_the_simulated_intervals_usually_contain_the_true_value():
    assert all(measure_interval(name, 6, 0)["coverage"] >= 0.5 for name in INTERVALS)

"""Tests of the benchmark of evaluations on numbers worked by hand."""

import json

import numpy as np
import pytest

from benchmarks import gate
from benchmarks.gate import CASES, CROWD, Case, attempt_until_better, measure, quantile


def test_the_benchmark_ends_with_one_line_of_json(capfd):
    assert gate.main(["--evaluations", "20", "--prompts", "40"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["name"] == "gate" and {"commit", "hardware"} <= result.keys()
    assert len(result["cases"]) == len(CASES)
    fields = {"true_win_rate", "evaluations", "alpha", "false_better", "median_verdicts",
              "p90_verdicts", "judge", "coverage"}  # fmt: skip
    assert all(fields <= case.keys() for case in result["cases"])


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name != "wrong: candidate always first"]
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

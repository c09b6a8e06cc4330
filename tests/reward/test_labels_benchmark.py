import json

import pytest

from benchmarks.labels import COMPARISONS, main, run_seed


def test_the_benchmark_ends_with_one_line_of_json_over_every_signal(capfd):
    assert main(["--seeds", "2"]) == 0
    out = capfd.readouterr().out.splitlines()[-1]
    result = json.loads(out)
    assert result["name"] == "labels" and {"commit", "hardware", "cases"} <= result.keys()
    signals = {"strength", "reviewer_weights", "label_smoothing", "cut_weight", "ties"}
    signals |= {"weigh_reviewers"}
    assert {case["signal"] for case in result["cases"]} == signals | {"label_mistakes"}
    for case in result["cases"]:
        if case["signal"] == "label_mistakes":
            assert {"precision", "recall", "wrong"} <= case.keys()
            continue
        assert case["gain"] == pytest.approx(case["with"] - case["without"], abs=2e-4)


def gain(signal: str, setting: str, figure: str, seeds: int = 4) -> float:
    comparison = next(c for c in COMPARISONS if c.signal == signal)
    result = [run_seed(comparison, seed) for seed in range(seeds)]
    without = comparison.arms[0].name
    return sum(v[setting, figure] - v[without, figure] for v in result) / seeds


@pytest.mark.parametrize(
    ("signal", "setting", "figure", "at_least"),
    [
        ("strength", "soft", "true_order", 0.005),
        ("strength", "margin", "true_order", 0.002),
        ("reviewer_weights", "full", "true_order", 0.03),
        ("weigh_reviewers", "full", "true_order", 0.002),
        ("cut_weight", "0.5", "acceptable_auc", 0.005),
        ("cut_weight", "0.5", "true_order", 0.005),
    ],
)
def test_signals_in_labels_improve_the_order(signal, setting, figure, at_least):
    assert gain(signal, setting, figure) > at_least


@pytest.mark.parametrize(
    ("signal", "setting", "figure"),
    [
        ("label_smoothing", "0.2", "surprise"),
        ("ties", "davidson", "probability_error"),
        ("ties", "rao_kupper", "probability_error"),
    ],
)
def test_signals_in_labels_improve_the_probabilities(signal, setting, figure):
    assert gain(signal, setting, figure) < -0.005


def test_weights_within_a_prompt_have_no_effect_with_one_reviewer_each():
    assert gain("reviewer_weights", "within", "true_order") == pytest.approx(0, abs=1e-3)

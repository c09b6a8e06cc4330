"""Tests of `python -m benchmarks.generation`: its model, its figures, and its stored results."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.generation import figures, main

RESULTS = Path(__file__).parents[3] / "benchmarks/results"


@pytest.fixture
def quick(capfd):
    threads = torch.get_num_threads()
    assert main(["--quick", "--threads", "1", "--before", "none", "--spread", "8"]) == 0
    torch.set_num_threads(threads)
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def test_the_benchmark_ends_with_one_line_of_json(quick):
    assert quick["name"] == "generation"
    [case] = quick["cases"]
    assert (case["prompts"], case["k"], case["prompt_tokens"]) == (2, 4, 128)
    assert 0 < case["tokens"] <= 2 * 4 * case["longest"]
    assert 0 < case["entropy"] < 4, "the head makes the distribution peaked"
    assert len(case["seconds"]) == case["turns"] == 1


def test_the_speed_up_is_the_median_of_the_turns_and_differing_texts_are_counted():
    def turns(seconds, last):
        texts = [{"a/0": "x", "a/1": "y"}, {"a/0": "x", "a/1": last}]
        return [
            {"seconds": value, "texts": texts[value == seconds[-1]], "tokens": 12, "peak_mb": 5}
            for value in seconds
        ]

    row = figures({"seeded": turns([1, 2, 3], "y"), "before": turns([2, 6, 15], "z")})
    assert row["speedup_vs_before"] == 3
    assert row["speedup_vs_before_spread"] == [2.5, 4.0]
    assert (row["same_texts"], row["texts"]) == (1, 2)
    assert (row["tokens_per_s"], row["tokens_per_s_before"]) == (6, 2)


def test_the_stored_results_reach_the_target_with_the_same_texts():
    cases = [
        case
        for path in sorted(RESULTS.glob("generation*.json"))
        for case in json.loads(path.read_text())["cases"]
    ]
    assert len(cases) == 4
    assert all(case["k"] == 4 and case["speedup_vs_before"] >= 1.5 for case in cases)
    assert all(case["same_texts"] == case["texts"] for case in cases)

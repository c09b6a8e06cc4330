import json

import pytest
import torch

from benchmarks.reward_training import main, make_groups

CASE_KEYS = {
    "k",
    "prompt_tokens",
    "response_tokens",
    "device",
    "speedup_vs_trl",
    "speedup_vs_padded",
    "arithmetic_bound",
    "rankings_per_s",
    "peak_mb",
    "loss_diff",
    "grad_diff",
}


@pytest.fixture
def quick(capfd, monkeypatch):
    threads = torch.get_num_threads()
    options = ["--quick", "--turns", "1", "--threads", "1", "--device", "cpu"]
    assert main([*options, "--case", "4,24,24", "--case", "2,24,24"]) == 0
    torch.set_num_threads(threads)
    return capfd.readouterr()


def test_the_benchmark_ends_with_one_line_of_json_and_equal_gradients(quick):
    result = json.loads(quick.out.splitlines()[-1])
    assert result["name"] == "reward_training"
    assert {"commit", "hardware", "cases"} <= result.keys()
    four, two = result["cases"]
    assert four.keys() >= CASE_KEYS
    # K(K-1)(P+R) / (P+K·R): 12·48/120 and 2·48/72
    assert (four["arithmetic_bound"], two["arithmetic_bound"]) == (4.8, pytest.approx(1.333))
    for case in result["cases"]:
        assert case["loss_diff"] < 1e-5 and case["grad_diff"] < 1e-5
        assert case["speedup_vs_trl"] > 0 and case["peak_mb"] > 0
    assert "K=4, prompt 24" in quick.err


def test_the_rankings_are_the_same_for_every_contender():
    one, two = make_groups(2, 3, 5, 7), make_groups(2, 3, 5, 7)
    assert [g.prompt.tolist() for g in one] == [g.prompt.tolist() for g in two]
    assert one[0].prompt.tolist() != one[1].prompt.tolist()

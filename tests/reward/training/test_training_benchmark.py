import json

import pytest
import torch

from benchmarks.reward_training import main, make_groups, make_model
from benchmarks.support.flops import pairs_work, plain_work, shared_work, step_flops
from benchmarks.support.reward_training_options import parse

CASE_KEYS = {
    "k",
    "prompt_tokens",
    "response_tokens",
    "device",
    "speedup_vs_trl",
    "speedup_vs_padded",
    "arithmetic_bound",
    "rankings_per_s",
    "rankings_per_s_trl",
    "rankings_per_s_padded",
    "tokens_per_s",
    "mfu",
    "fraction_of_bound",
    "peak_mb",
    "loss_diff",
    "grad_diff",
}


@pytest.fixture
def quick(capfd, monkeypatch):
    threads = torch.get_num_threads()
    options = ["--quick", "--turns", "1", "--threads", "1", "--device", "cpu", "--groups", "2"]
    assert main([*options, "--case", "4,24,24", "--case", "2,24,24", "--also", "dense"]) == 0
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
        assert 0 < case["mfu"] < 1 and case["rankings_per_s_dense"] > 0
        at_once = case["rankings_per_s"] * (24 + case["k"] * 24)
        assert case["tokens_per_s"] == pytest.approx(at_once, rel=1e-2)
    assert "K=4, prompt 24" in quick.err


def test_the_rankings_are_the_same_for_every_contender():
    first, second = make_groups(2, 3, 5, 7), make_groups(2, 3, 5, 7)
    assert [g.prompt.tolist() for g in first] == [g.prompt.tolist() for g in second]
    assert first[0].prompt.tolist() != first[1].prompt.tolist()


def test_lengths_vary_on_request():
    groups = make_groups(4, 3, 100, 100, uneven=True)
    lengths = [len(response) for group in groups for response in group.responses]
    assert len(set(lengths)) > 6 and min(lengths) >= 50 and max(lengths) <= 150


def test_all_ratios_at_every_k_are_measured_and_a_gpu_gets_a_real_size():
    cases = parse(["--device", "cpu"]).cases
    assert {k for k, _, _ in cases} == {2, 4, 7, 9}
    assert {p / r for _, p, r in cases} == {2, 1, 0.5}
    gpu = parse(["--device", "cuda"])
    assert (gpu.hidden, gpu.layers, gpu.kv_heads, gpu.lora) == (2048, 16, 8, 16)
    assert parse(["--device", "cuda", "--size", "0.5b"]).inner == 4864


def test_work_and_operations_equal_an_example_by_hand():
    [group] = make_groups(1, 3, 2, 1)
    assert shared_work(group) == (5, 3 + 3 * (2 + 1))
    assert plain_work(group) == (9, 3 * 6)
    assert pairs_work(group) == (18, 2 * 3 * 6)
    options = parse(["--quick", "--device", "cpu"])
    model = make_model(options, longest=8)
    # Per layer 4 square matrices of width 64 and three of 64 × 170; the head is 64 × 1.
    weights = 2 * (4 * 64 * 64 + 3 * 64 * 170) + 64
    assert step_flops(model, [(5, 12)]) == 6 * weights * 5 + 12 * 64 * 2 * 12
    model.requires_grad_(False)
    assert step_flops(model, [(5, 0)]) == 4 * weights * 5

"""Tests of `python -m benchmarks.finetune --quick`, and of its bound, worked out by hand."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.finetune import (
    arithmetic_bound,
    as_pairs,
    compute_reference,
    earlier_dpo,
    executed_ratio,
    main,
    make_model,
)
from benchmarks.reward_training import make_groups
from benchmarks.support.finetune_options import BEFORE, matching_vocabulary, parse
from benchmarks.support.flops import PolicyWork, policy_flops, policy_work
from benchmarks.support.worktrees import worktree

ROOT = Path(__file__).parents[3]

CASE_KEYS = {
    "k",
    "prompt_tokens",
    "response_tokens",
    "speedup_vs_trl",
    "speedup_vs_trl_spread",
    "speedup_vs_trl_reference",
    "speedup_vs_pairs",
    "arithmetic_bound",
    "fraction_of_bound",
    "fraction_of_bound_pairs",
    "executed_ratio",
    "loss_diff",
    "grad_diff",
    "loss_error",
    "grad_error",
    "loss_error_trl",
    "grad_error_trl",
    "tokens_per_s",
    "peak_mb",
    "mfu",
}


@pytest.fixture
def quick(capfd):
    threads = torch.get_num_threads()
    options = ["--quick", "--turns", "1", "--threads", "1", "--device", "cpu", "--groups", "2"]
    assert main([*options, "--clock", "cpu", "--case", "3,24,16"]) == 0
    torch.set_num_threads(threads)
    return capfd.readouterr()


def test_the_benchmark_ends_with_one_line_of_json_and_the_gradients_of_trl(quick):
    result = json.loads(quick.out.splitlines()[-1])
    assert result["name"] == "finetune"
    assert {"commit", "hardware", "cases"} <= result.keys()
    case, memory = result["cases"]
    assert case.keys() >= CASE_KEYS
    assert case["loss_diff"] < 1e-5 and case["grad_diff"] < 1e-4
    assert 0 < case["loss_error"] < 1e-5 and 0 < case["grad_error"] < 1e-5
    assert "speedup_vs_before" not in case and result["before"] is None
    assert case["speedup_vs_trl"] > 1 and case["peak_mb"] > 0 and case["mfu"] is None
    assert case["fraction_of_bound"] == pytest.approx(
        case["speedup_vs_trl"] / case["arithmetic_bound"], abs=2e-3
    )
    # At the rate of the step: 2 · (24 + 3·16) tokens.
    assert case["tokens_per_s"] * case["seconds_ours"][0] == pytest.approx(144, rel=1e-2)
    assert memory["vocabulary"] == [65536, 131072]
    assert memory["beyond_weights_mb"][0] > 0 and memory["growth"] < 0.05
    assert "K=3, prompt 24" in quick.err


def test_the_part_about_equality_takes_no_turns(capfd):
    threads = torch.get_num_threads()
    options = ["--quick", "--part", "equality", "--threads", "1", "--device", "cpu"]
    assert main([*options, "--case", "2,8,64"]) == 0
    torch.set_num_threads(threads)
    [case] = json.loads(capfd.readouterr().out.splitlines()[-1])["cases"]
    assert case["loss_error"] < 1e-6 and case["grad_error"] < 1e-5
    assert case["loss_diff"] < 1e-5 and case["grad_diff"] < 1e-5
    assert "seconds_ours" not in case


def test_the_work_of_pairs_and_of_shared_prompts_equals_an_example_by_hand():
    groups = make_groups(2, 3, 2, 1)
    assert policy_work(groups, pairs=False) == PolicyWork(body=10, head=6, attended=24)
    assert policy_work(groups, pairs=True) == PolicyWork(body=36, head=12, attended=72)


def test_the_bound_follows_from_the_weights_of_body_head_and_adapter():
    options = parse(["--quick", "--device", "cpu"])
    vocabulary = matching_vocabulary(options)
    model = make_model(options, vocabulary, 8)
    # Per layer 4 square matrices of width 64 and three of 64 × 170.
    body, head = 2 * (4 * 64 * 64 + 3 * 64 * 170), 64 * vocabulary
    assert head / body == pytest.approx(0.3804, abs=1e-3)
    lora = 2 * 4 * (4 * (64 + 64) + 3 * (64 + 170))
    per_token = 4 * body + 6 * lora
    work = PolicyWork(body=5, head=3, attended=0)
    assert policy_flops(model, work) == 5 * per_token + 3 * 4 * head
    assert policy_flops(model, work, head_passes=3) == 5 * per_token + 3 * 6 * head
    groups = make_groups(1, 3, 2, 1)
    wanted = (18 * per_token + 6 * 4 * head) / (5 * per_token + 3 * 4 * head)
    assert arithmetic_bound(model, groups) == pytest.approx(wanted)
    # On a CPU, TRL computes the logits of all 18 positions, and again in the backward pass.
    attended = 12 * 64 * 2
    theirs = 18 * per_token + 18 * 6 * head + 36 * attended
    ours = 5 * per_token + 3 * 4 * head + 12 * attended
    assert executed_ratio(model, groups, "cpu") == pytest.approx(theirs / ours)


def test_every_pair_of_a_ranking_is_a_group_of_two_with_the_better_response_first():
    [group] = make_groups(1, 3, 2, 1)
    group.signals["reference"] = torch.tensor([1.0, 2.0, 3.0]).numpy()
    pairs = as_pairs([group])
    assert [pair.signals["reference"].tolist() for pair in pairs] == [[1, 2], [1, 3], [2, 3]]
    assert all(pair.wins.tolist() == [[0, 1], [0, 0]] for pair in pairs)
    assert pairs[2].responses[0] is group.responses[1]


def test_all_ratios_are_measured_and_a_gpu_gets_a_real_size():
    cases = parse(["--device", "cpu"]).cases
    assert {(k, p / r) for k, p, r in cases} == {(k, r) for k in (2, 4, 7) for r in (2, 1, 0.5)}
    gpu = parse(["--device", "cuda"])
    assert (gpu.hidden, gpu.layers, gpu.lora) == (896, 24, 16)
    assert abs(matching_vocabulary(gpu) - 151936) < 50


# --- the earlier version ----------------------------------------------------------------------------

EARLIER_TRAINER = """
from trl import DPOTrainer

class PretokenizedDPOTrainer(DPOTrainer):
    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset
"""


@pytest.fixture
def earlier(tmp_path):
    """Return a checkout whose trainer is in the place in which the earlier commit had it."""
    checkout = tmp_path / "checkout"
    for name in ("benchmarks", "recipes", "reward"):
        checkout.mkdir(exist_ok=True)
        (checkout / name).symlink_to(ROOT / name)
    trainer = checkout / "finetune" / "training" / "trainer.py"
    trainer.parent.mkdir(parents=True)
    trainer.write_text(EARLIER_TRAINER)
    return checkout


def earlier_contender(checkout, folder):
    options = parse(["--quick", "--device", "cpu", "--clock", "cpu", "--threads", "1"])
    vocabulary = matching_vocabulary(options)
    model = make_model(options, vocabulary, 8)
    groups = compute_reference(model, make_groups(2, 3, 4, 4, vocabulary=vocabulary))
    return earlier_dpo(model, groups, options, str(folder), checkout)


def test_the_earlier_version_takes_its_turns_in_its_own_process(tmp_path, earlier):
    contender = earlier_contender(earlier, tmp_path)
    contender.take_turn(warm_up=True)
    contender.take_turn(warm_up=False)
    assert contender.seconds == [contender.last] and contender.last > 0
    assert contender.process.poll() is None
    contender.close()
    assert contender.process.returncode == 0


def test_an_earlier_version_that_fails_ends_the_benchmark(tmp_path, earlier):
    (earlier / "finetune" / "training" / "trainer.py").write_text("raise SystemExit(3)")
    contender = earlier_contender(earlier, tmp_path)
    with pytest.raises(SystemExit, match="failed with status 3"):
        contender.take_turn(warm_up=True)


def test_a_commit_that_the_clone_lacks_is_refused_with_a_sentence(tmp_path):
    sentence = "Commit 0000000 cannot be checked out"
    with pytest.raises(SystemExit, match=sentence), worktree("0" * 7, tmp_path):
        pass
    assert parse(["--device", "cpu", "--before", "none"]).before is None
    assert parse(["--device", "cpu"]).before == BEFORE

"""Tests of the answers to fixed prompts during training."""

import json

import pytest
import torch

from finetune.training.online import online
from finetune.training.sampling import watching
from finetune.training.train import train
from recipes.stopping import StopSignal
from tests.finetune.training.test_training_online import online_run, reward_model
from tests.finetune.training.training_runs import apart, dpo_run, groups_that_like_b, messages

__all__ = ["reward_model"]

pytestmark = pytest.mark.usefixtures("one_thread")


def samples(run_dir):
    return [event for event in run_dir.events() if event["event"] == "samples"]


@pytest.fixture(scope="module")
def groups():
    return groups_that_like_b(12)


def trained(path, model, groups, **config):
    run_dir = dpo_run(path, model, groups, **{"sample_tokens": 5, "epochs": 2, **config})
    train(run_dir, StopSignal())
    return run_dir


@pytest.fixture(scope="module")
def watched(tmp_path_factory, model, groups):
    return trained(tmp_path_factory.mktemp("watched") / "run", model, groups, sample_prompts=2)


def test_the_same_held_out_prompts_are_answered_before_during_and_after_training(watched, groups):
    events = samples(watched)
    total = events[0]["total"]
    assert [event["step"] for event in events] == sorted(
        {0, -(-total // 3), -(-2 * total // 3), total}
    )
    held_out = [group.group_id for group in groups if group.split == "test"]
    for event in events:
        assert [row["prompt_id"] for row in event["answers"]] == held_out[:2]
        assert [row["prompt"] for row in event["answers"]] == [
            f"Question {n}?" for n in held_out[:2]
        ]
        assert all(row["truncated"] or len(row["answer"]) < 5 for row in event["answers"])


def test_the_answers_do_not_change_the_training(tmp_path, watched, model, groups):
    unwatched = trained(tmp_path / "run", model, groups, sample_prompts=0)
    assert samples(unwatched) == []
    assert apart(watched, unwatched) == 0


def test_a_run_without_held_out_prompts_answers_training_prompts(tmp_path, model, groups):
    training = [group for group in groups if group.split == "train"]
    run_dir = trained(tmp_path / "run", model, training, sample_prompts=1, epochs=1)
    assert [row["prompt_id"] for row in samples(run_dir)[0]["answers"]] == [training[0].group_id]


def test_too_little_memory_for_the_answers_does_not_end_the_training(
    tmp_path, model, groups, monkeypatch
):
    calls = []

    def out_of_memory(*arguments):
        calls.append(arguments)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(watching, "sample_batch", out_of_memory)
    run_dir = trained(tmp_path / "run", model, groups, sample_prompts=2, epochs=1)
    assert (run_dir.output / "adapter_model.safetensors").exists() and len(calls) == 1
    assert samples(run_dir) == []
    assert ["sample prompts" in text for text in messages(run_dir, "warning")] == [True]


def test_on_policy_rounds_answer_before_each_round_and_after_the_last(
    tmp_path, model, reward_model
):
    config = {"sample_prompts": 1, "sample_tokens": 3, "epochs": 1, "samples_per_prompt": 2}
    run_dir = online_run(tmp_path / "run", model, reward_model, **config)
    online(run_dir, StopSignal())
    assert [(event["step"], event["total"]) for event in samples(run_dir)] == [
        (0, 2),
        (1, 2),
        (2, 2),
    ]


def test_long_texts_are_cut_in_the_events(watched, model, monkeypatch):
    monkeypatch.setattr(watching, "LONGEST_TEXT", 4)
    assert watching.bounded("12345") == "1234…" and watching.bounded("1234") == "1234"
    assert len(json.dumps(samples(watched)[0])) < 1000

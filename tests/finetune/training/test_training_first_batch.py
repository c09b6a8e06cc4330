"""Tests of the first batch that is shown before a run: the tokens, the marks and the order."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from finetune.training.first_batch import first_batch
from recipes.errors import RecipeError
from recipes.preferences import first_batch as shared
from recipes.preferences.groups import Group, Judgment, write_groups
from recipes.rundir import RunDir
from recipes.training.trainer import first_batch as rows_of
from reward.training.first_batch import first_batch as first_batch_of_reward_model


@pytest.fixture
def run_of(model: Path, tmp_path: Path) -> Callable[..., RunDir]:
    """Return a function that makes a run directory for a kind, with twelve prompts."""

    def make(kind: str, cut: int | None = 1, **config) -> RunDir:
        names = {"base_model": str(model)} if kind == "reward" else {"model": str(model)}
        run_dir = RunDir.create(tmp_path / "run", {"kind": kind, "config": {**names, **config}})
        write_groups(run_dir.data / "preferences.parquet", [
            Group(f"g{n}", [{"role": "user", "content": f"Question {n}"}], [1, 2, 3],
                  [f"best {n} 🙂", "fair", "unranked"], [Judgment("ann", [[1], [2]], cut=cut)],
                  split="test" if n % 4 == 3 else "train")
            for n in range(12)
        ])  # fmt: skip
        return run_dir

    return make


def marks(text: dict) -> list[bool]:
    first = 0 if text["trained"] is None else len(text["pieces"]) - text["trained"]
    return [index >= first for index in range(len(text["pieces"]))]


@pytest.mark.parametrize("seed", [0, 7])
def test_the_order_is_that_of_the_trainer(tmp_path, seed):
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, seed=seed, data_seed=seed, use_cpu=True,
        report_to=[],
    )  # fmt: skip
    trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=list(range(11)))
    assert shared.first_rows(11, 4, seed) == rows_of(trainer)


@pytest.mark.parametrize(
    ("kind", "trained"),
    [("dpo", ["all", "all", "none"]), ("kto", ["all", "all"]), ("sft", ["all"])],
)
def test_the_tokens_that_the_loss_reads_are_marked(run_of, kind, trained):
    batch = first_batch(run_of(kind, batch_size=6, micro_batch_size=2))
    assert (batch["prompts"], batch["usable"], len(batch["groups"])) == (6, 9, 4)
    group = batch["groups"][0]
    assert not any(marks(group["prompt"]))
    assert "".join(group["prompt"]["pieces"]).startswith("<|user|>Question ")
    seen = [
        "all" if all(marks(response)) else "some" if any(marks(response)) else "none"
        for response in group["responses"]
    ]
    assert seen == trained
    best = group["responses"][0]["pieces"]
    assert "".join(best).startswith("best ") and "🙂" in best and best[-1] == "<|end|>"


def test_a_reward_model_reads_the_score_at_the_last_token(run_of):
    (group, *_) = first_batch_of_reward_model(run_of("reward"))["groups"]
    assert marks(group["responses"][0])[-2:] == [False, True]
    assert not any(marks(group["responses"][2]))


@pytest.mark.parametrize("kind", ["online", "grpo"])
def test_methods_that_sample_show_the_prompts_alone(run_of, kind):
    batch = first_batch(run_of(kind, reward_model="/x", batch_size=4))
    assert all(group["responses"] == [] for group in batch["groups"])
    assert "samples" in batch["note"] and batch["prompts"] == (4 if kind == "grpo" else 9)


def test_long_texts_and_many_prompts_are_cut(run_of, monkeypatch):
    monkeypatch.setattr(shared, "SHOWN_TOKENS", 5)
    monkeypatch.setattr(shared, "MOST_GROUPS", 3)
    batch = first_batch(run_of("dpo"))
    prompt = batch["groups"][0]["prompt"]
    assert (batch["usable"], batch["all_read"]) == (3, False)
    assert len(prompt["pieces"]) == 5 and prompt["more"] == prompt["tokens"] - 5
    assert prompt["pieces"][-1] == "<|assistant|>"


def test_a_run_without_data_is_explained(run_of):
    with pytest.raises(RecipeError, match="nothing to train on"):
        first_batch(run_of("kto", cut=None))


def test_the_program_prints_a_problem_instead_of_a_traceback(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shared, "limit_resources", lambda: None)
    run_dir = RunDir.create(tmp_path, {"kind": "dpo", "config": {"model": str(tmp_path / "no")}})
    assert shared.print_first_batch(first_batch, [str(run_dir.path)]) == 0
    assert "does not exist" in json.loads(capsys.readouterr().out)["problem"]

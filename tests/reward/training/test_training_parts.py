"""Tests of resuming a run with trainings on parts of the data."""

import json
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.preferences.tokens import Prepared, TokenGroup
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from reward.evaluation.report import Scored
from reward.settings import RewardConfig
from reward.training.parts import Parts
from reward.training.train import train
from tests.forks import Program
from tests.reward.world import make_group, make_groups, make_run, messages, tiny_llama

torch.set_num_threads(1)

ROOT = Path(__file__).parents[3]


def report_of(run_dir: RunDir) -> dict:
    return json.loads((run_dir.output / "report.json").read_text())


def wait_for(pattern: str, run_dir: RunDir, process: Program) -> None:
    deadline = time.monotonic() + 120
    while not list(run_dir.path.glob(pattern)):
        assert process.poll() is None, f"the run ended before there was {pattern}"
        assert time.monotonic() < deadline, f"no {pattern} within two minutes"
        time.sleep(0.002)


def test_a_run_killed_inside_a_part_gives_the_same_report_as_an_uninterrupted_one(tmp_path):
    model, groups = tiny_llama(tmp_path), make_groups(64, 16, k=3)
    settings = {"learning_curve": 3, "label_mistakes": 2, "checkpoint_steps": 1}
    whole, killed = (make_run(tmp_path / n, model, groups, **settings) for n in ("whole", "killed"))
    process = Program("reward.training.train", killed.path)
    wait_for("parts/curve-32/checkpoints/checkpoint-*", killed, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (killed.path / "parts" / "curve-32" / "scores.npz").exists()
    train(killed, StopSignal())
    train(whole, StopSignal())
    texts = messages(killed, "info")
    assert any(text.startswith("32 of 64 prompts: Resuming from checkpoint-") for text in texts)
    assert texts.count("Training on 8 of 64 prompts for the learning curve.") == 1
    for key in ("learning_curve", "label_mistakes", "accuracy"):
        assert report_of(killed)[key] == report_of(whole)[key]
    assert not list(killed.path.glob("parts/*/checkpoints/*"))


# --- messages, with instant training --------------------------------------------------------------


@pytest.fixture
def prepared() -> Prepared:
    groups = {
        "train": [make_group(n) for n in range(64)],
        "test": [make_group(n) for n in range(9)],
    }
    tokens = {
        split: [TokenGroup([1], [[2]] * 3, np.zeros((3, 3)), {}) for _ in result]
        for split, result in groups.items()
    }
    return Prepared(groups=groups, tokens=tokens)


def by_length(folder: RunDir, data: Prepared) -> list[Scored]:
    """Imitate a training: log two messages, report progress and write a checkpoint."""
    folder.message("Out of memory with 4 examples at a time; continuing with 2.", level="warning")
    folder.message(f"{len(data.groups['train'])} prompts.")
    folder.emit("progress", step=1, total=2, loss=0.5, metrics={})
    (folder.checkpoints / "checkpoint-1").mkdir()
    return [
        Scored(group, np.array([len(text) for text in group.responses]), np.ones(3))
        for group in data.groups["test"]
    ]


def test_the_whole_run_repeats_the_messages_of_its_parts_and_keeps_its_curves(tmp_path, prepared):
    run_dir = RunDir.create(tmp_path, {})
    config = RewardConfig(base_model="m", label_mistakes=2)
    Parts(run_dir, prepared, by_length).folds(config)
    assert messages(run_dir, "warning") == [  # both parts give the same warning, which appears once
        "Without part 1 of 2: Out of memory with 4 examples at a time; continuing with 2."
    ]
    training, output, done = (text for text in messages(run_dir, "info") if "part 1 of 2" in text)
    assert training == "Training without part 1 of 2 to look for mistakes in it."
    assert output.startswith("Without part 1 of 2: ") and output.endswith(" prompts.")
    assert re.match(r"Without part 1 of 2: trained and scored in \d+ s, accuracy [\d.]+%", done)
    assert not [event for event in run_dir.events() if event["event"] == "progress"]
    [part, _] = run_dir.parts()
    assert [e["event"] for e in part.events()] == ["message", "message", "progress"]


def test_a_finished_part_is_read_without_messages_and_loses_its_checkpoints(tmp_path, prepared):
    run_dir = RunDir.create(tmp_path, {})
    config = RewardConfig(base_model="m", label_mistakes=2)
    first = Parts(run_dir, prepared, by_length).folds(config)
    assert not list(run_dir.path.glob("parts/*/checkpoints"))
    # The state after a kill between writing scores and deleting checkpoints.
    left = run_dir.path / "parts" / "without-1" / "checkpoints" / "checkpoint-1"
    left.mkdir(parents=True)
    texts = messages(run_dir, "info")
    again = Parts(run_dir, prepared, by_length).folds(config)
    assert messages(run_dir, "info") == texts
    assert not left.exists()
    for ours, theirs in zip(first, again, strict=True):
        for our, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(our.scores, other.scores)


def test_a_part_leaves_no_model_in_memory(tmp_path, prepared):
    class Model:
        """Check a model in a reference cycle, which accelerate creates."""

        alive = 0

        def __init__(self):
            self.itself = self
            Model.alive += 1

        def __del__(self):
            Model.alive -= 1

    alive = []

    def with_a_model(folder: RunDir, data: Prepared) -> list[Scored]:
        alive.append(Model.alive)
        Model()
        return by_length(folder, data)

    run_dir = RunDir.create(tmp_path, {})
    Parts(run_dir, prepared, with_a_model).folds(RewardConfig(base_model="m", label_mistakes=4))
    assert alive == [0, 0, 0, 0] and Model.alive == 0

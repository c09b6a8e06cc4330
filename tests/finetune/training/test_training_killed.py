"""Tests that a run of each method resumes to the same weights after it was killed at a random point.

The points are random in each run of the tests. A failure names them, so that `TIEBREAK_KILL_SEED`
can repeat them.
"""

import os
import random
import signal

import pytest

from finetune.methods.method import PolicyGradientMethod, SampledMethod, all_methods
from recipes.rundir import RunDir
from tests.finetune.training.killed_runs import SAMPLING, STEP, Point, run
from tests.finetune.training.training_runs import (
    apart,
    dpo_run,
    lined_groups,
    make_letters_model,
    messages,
    report_of,
)
from tests.reward.scored import make_scorer_folder

SEED = int(os.environ.get("TIEBREAK_KILL_SEED") or random.SystemRandom().randrange(2**31))
REFERENCE = "Computing the reference log-probabilities"
SETTINGS = {
    "epochs": 2, "checkpoint_steps": 1, "evaluations": 1, "rounds": 2, "samples_per_prompt": 3,
    "max_new_tokens": 6, "sampling_batch_size": 12, "steps": 4, "updates_per_sample": 2,
}  # fmt: skip
"""Settings that make runs short. Each method takes those that it has."""
UNEQUAL = ("seconds", "training", "versions", "device")
"""Sections of the report that contain times or memory."""

every_method = pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.name)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    policy = make_letters_model(folder / "letters")
    return policy, make_scorer_folder(folder / "scorer", heads=1, seed=3)


def new_run(path, method, models):
    policy, scorer = models
    names = {option.name for option in method.settings.options()}
    settings = {name: value for name, value in SETTINGS.items() if name in names}
    if method.reward_model:
        settings["reward_model"] = str(scorer)
    # Each run has its own folder, and with it its own cache of the reference.
    return dpo_run(path / "run", policy, lined_groups(12), method=method.name, **settings)


def windows_of(method, labels):
    """Return the labels at which a run of the method is killed, in the order in which it has them."""
    windows = [REFERENCE, ".reference", STEP, "checkpoints", ".output-draft"]
    if issubclass(method, SampledMethod):
        sampled_while_training = issubclass(method, PolicyGradientMethod)
        windows.insert(3 if sampled_while_training else 0, SAMPLING)
    first = {label.rpartition(": ")[2]: label for label in reversed(labels)}
    assert first.keys() >= {*windows}, f"{method.name} lacks points: {first}"
    return [first[window] for window in windows]


def assert_resumes_to(whole: RunDir, run_dir: RunDir, method, story):
    ended = run(method.program, run_dir.path)
    assert ended.status == 0, (story, ended)
    assert apart(run_dir, whole) == 0, story
    ours, theirs = report_of(run_dir), report_of(whole)
    for name in theirs.keys() - {*UNEQUAL}:
        assert ours[name] == theirs[name], (story, name)
    assert ours["training"]["curve"] == theirs["training"]["curve"], story
    assert not list(run_dir.path.glob("**/.damaged-*")), story


@every_method
def test_a_run_that_is_killed_at_random_points_resumes_to_the_same_weights(
    tmp_path, models, method
):
    """Kill one run in each window of time, one after the other, and another run at any point.

    The points in a window are in its first quarter, so that the resumed run has not passed them yet.
    """
    whole = new_run(tmp_path / "whole", method, models)
    ended = run(method.program, whole.path)
    assert ended.status == 0, ended.log
    labels, rng = ended.labels, random.Random(f"{SEED} {method.name}")
    in_windows = [
        Point(label, rng.randint(1, max(1, labels.count(label) // 4)))
        for label in windows_of(method, labels)
    ]
    index = rng.randrange(len(labels))
    anywhere = [Point(labels[index], labels[: index + 1].count(labels[index]))]
    for number, points in enumerate((in_windows, anywhere)):
        run_dir = new_run(tmp_path / str(number), method, models)
        for point in points:
            ended = run(method.program, run_dir.path, point)
            assert ended.status == -signal.SIGKILL, (SEED, points, point, ended)
        assert_resumes_to(whole, run_dir, method, (SEED, points))
        if points is in_windows:  # the last of them is after the last checkpoint
            assert any("Resuming from" in text for text in messages(run_dir))

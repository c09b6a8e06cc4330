"""Tests of on-policy rounds: their samples, their rankings, and runs that are killed anywhere."""

import json
import math
import signal

import pytest

from finetune.engines.sampled_text import Prompt, read_rows
from finetune.evaluation.rounds import round_figures, score_change
from finetune.methods.best_of_n import BestOfN, BestOfNSettings
from finetune.methods.online import OnlineSettings
from finetune.report import SampledReport
from finetune.training.fitting.reference import ReferenceCache
from finetune.training.online import (
    online,
    rank_group,
    tiers_of,
)
from finetune.training.samples import prompts_of_round
from recipes.errors import RecipeError
from recipes.preferences.groups import RESPONSES_CUT_OFF
from recipes.settings import ConfigError
from recipes.stopping import StopSignal
from reward.training.score import Scorer
from tests.finetune.training.training_runs import (
    apart,
    dpo_run,
    groups_that_like_b,
    interrupt_when,
    make_letters_model,
    messages,
    progress,
    ranked_group,
    report_of,
    results,
    start,
    user,
)
from tests.reward.scored import make_scorer_folder
from tests.schema import differences

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_letters_model(tmp_path_factory.mktemp("models") / "letters")


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    """Return the folder of a reward model with random weights and one head."""
    return make_scorer_folder(tmp_path_factory.mktemp("reward") / "scorer", heads=1, seed=3)


def online_run(path, model, reward_model, *, method="online", groups=None, **config):
    settings = {
        "reward_model": str(reward_model), "rounds": 2, "samples_per_prompt": 4,
        "max_new_tokens": 10, "sampling_batch_size": 16, "epochs": 2, "evaluations": 0, **config,
    }  # fmt: skip
    if method != "online":
        del settings["rounds"]
    return dpo_run(path, model, groups or groups_that_like_b(16), method=method, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, reward_model):
    """Do two rounds once for several tests."""
    run_dir = online_run(tmp_path_factory.mktemp("online") / "run", model, reward_model)
    online(run_dir, StopSignal())
    return run_dir


def samples_of(run_dir, part):
    return read_rows(run_dir.path / "parts" / part / "checkpoints" / "samples.parquet")


def sample(prompt, number, text, score, *, truncated=False):
    return {
        "prompt_id": prompt, "sample": number, "seed": 0, "response": text, "tokens": len(text),
        "truncated": truncated, "score": score,
    }  # fmt: skip


# --- rankings ---------------------------------------------------------------------------------------


def test_scores_within_the_margin_of_the_best_of_a_tier_are_ties():
    """Check that 1.0 and 0.6 do not tie although 0.8 is within 0.2 of both."""
    scores = [0.6, 1.0, 0.8, -1.0, 1.0]
    assert tiers_of(scores, 0.0) == [[1, 4], [2], [0], [3]]
    assert tiers_of(scores, 0.25) == [[1, 4, 2], [0], [3]]
    assert tiers_of(scores, 2.0) == [[1, 4, 2, 0, 3]]
    assert tiers_of([], 0.0) == []


def test_equal_samples_are_one_response_and_those_without_a_score_none():
    rows = [
        sample("p", 0, "a", 1.0),
        sample("p", 1, "b", 2.0, truncated=True),
        sample("p", 2, "a", 1.0),
        sample("p", 3, "c", None),
    ]
    group = rank_group("p", user("?"), rows, 0.0)
    assert group.responses == ["a", "b"] and group.problem() is None
    assert group.rankings[0].tiers == [[1], [0]]
    assert group.meta[RESPONSES_CUT_OFF] == [False, True]


def test_rounds_of_some_prompts_take_different_ones():
    prompts = [Prompt(str(number), user("?")) for number in range(5)]
    rounds = [prompts_of_round(prompts, number, 2, 0) for number in (1, 2, 3)]
    ids = [prompt.prompt_id for some in rounds for prompt in some]
    assert sorted(ids[:5]) == list("01234") and ids[5] == ids[0]
    assert prompts_of_round(prompts, 3, None, 0) == prompts


# --- figures ----------------------------------------------------------------------------------------


def test_figures_of_a_round_are_means_over_samples_with_intervals():
    """Check a mean score of (1 + 3 + 8)/3 and a KL of (2·0.5 + 2.0 + 1.0)/4."""
    rows = [
        sample("p", 0, "a", 1.0), sample("p", 1, "bbb", 3.0), sample("q", 0, "cc", 8.0, truncated=True),
        sample("q", 1, "cc", None, truncated=True),
    ]  # fmt: skip
    figures = round_figures(rows, {"p": [(0.5, 2)], "q": [(2.0, 1), (1.0, 1)]}, 0)
    assert figures["score"]["value"] == pytest.approx(4.0)
    assert figures["score"]["interval"] == pytest.approx([2.0, 8.0])
    assert figures["kl"]["value"] == pytest.approx(1.0)
    assert figures["distinct"] == 3 / 4 and figures["truncated"] == 0.5
    assert (figures["samples"], figures["prompts"], figures["unscored"]) == (4, 2, 1)
    assert figures["mean_tokens"] == 2.0


def test_the_change_of_the_score_pairs_samples_of_the_same_number():
    before = [sample("p", 0, "a", 1.0), sample("q", 0, "a", None), sample("r", 0, "a", 0.0)]
    after = [sample("p", 0, "b", 1.5), sample("q", 0, "b", 9.0), sample("r", 0, "b", 1.0)]
    change = score_change(before, after, 0)
    assert change["value"] == pytest.approx(0.75)
    assert change["interval"] == pytest.approx([0.5, 1.0])
    assert score_change(before, [], 0)["reason"] == "No sample has a score before and after."


# --- runs -------------------------------------------------------------------------------------------


def test_the_report_has_figures_of_each_round(finished):
    report = report_of(finished)
    assert differences(report, SampledReport) == []
    first, second = report["rounds"]
    assert first["samples"] == 12 * 4 and first["kl"]["value"] == pytest.approx(0, abs=1e-5)
    assert abs(second["kl"]["value"]) > 1e-3
    assert report["kind"] == "online" and report["prompts"]["test"] == 4
    assert results(finished)[-1]["score_change"] == report["score_change"]
    card = (finished.output / "README.md").read_text()
    assert "2 rounds of 4 samples of its own to each prompt" in card
    assert "The reward model's mean score of samples changed by" in card
    points = [e["metrics"]["reward_score"] for e in progress(finished)]
    expected = [*report["rounds"], report["after"]]
    assert points == [round_["score"]["value"] for round_ in expected]
    assert sum("mean score" in text for text in messages(finished)) == 3


def test_samples_have_the_scores_of_the_reward_model(finished, reward_model):
    rows = samples_of(finished, "round-2")
    groups = {group.group_id: group for group in groups_that_like_b(16)}
    scorer = Scorer(reward_model)
    for row in rows[:8]:
        [[score]] = scorer.score([(groups[row["prompt_id"]].prompt, [row["response"]])])
        assert row["score"] == pytest.approx(float(score), abs=1e-4)
    assert {row["prompt_id"] for row in rows} == {
        name for name, group in groups.items() if group.split == "train"
    }


def test_each_round_samples_from_the_model_of_the_previous_round(finished):
    """Check that rounds differ, and that the samples after training have the first round's seeds."""
    first, second, after = (samples_of(finished, p) for p in ("round-1", "round-2", "after"))
    assert [row["seed"] for row in first] == [row["seed"] for row in after]
    assert [row["response"] for row in first] != [row["response"] for row in after]
    assert [row["seed"] for row in first] != [row["seed"] for row in second]


def test_the_reference_stays_the_original_model(finished):
    """Check that only the first round begins at ln 2, where policy and reference are equal."""
    parts = {part.path.name: part for part in finished.parts()}
    losses = {
        name: next(e["loss"] for e in progress(parts[name]) if e.get("loss"))
        for name in ("round-1", "round-2")
    }
    assert losses["round-1"] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(losses["round-2"] - math.log(2)) > 1e-3


def test_the_model_follows_the_reward_model(tmp_path, model, reward_model):
    run_dir = online_run(
        tmp_path / "run", model, reward_model, groups=groups_that_like_b(32),
        samples_per_prompt=8, epochs=4, learning_rate=1e-2,
    )  # fmt: skip
    online(run_dir, StopSignal())
    report = report_of(run_dir)
    assert report["score_change"]["interval"][0] > 0.05
    assert report["rounds"][1]["kl"]["value"] > 0.1 and report["after"]["kl"]["value"] > 0.1


def test_a_cache_that_cannot_be_written_does_not_change_the_reference(
    tmp_path, model, reward_model, finished, monkeypatch
):
    def refused(self):
        raise PermissionError("read-only")

    monkeypatch.setattr(ReferenceCache, "_locked", refused)
    run_dir = online_run(tmp_path / "run", model, reward_model)
    online(run_dir, StopSignal())
    assert apart(run_dir, finished) < 1e-4


@pytest.mark.parametrize(
    "point",
    [
        "round-1/checkpoints/responses-000001.json",
        "round-1/checkpoints/checkpoint-1",
        "round-1/weights.safetensors",
        "after/checkpoints/responses-000000.json",
    ],
)
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, model, reward_model, finished, point):
    run_dir = online_run(tmp_path / "run", model, reward_model)
    process = start("finetune.training.online", run_dir)
    killed = interrupt_when(process, run_dir.path / "parts" / point, signal.SIGKILL)
    assert killed == -signal.SIGKILL and not run_dir.output.exists()
    online(run_dir, StopSignal())
    assert apart(run_dir, finished) == 0
    ours, theirs = report_of(run_dir), report_of(finished)
    assert ours["rounds"] == theirs["rounds"] and ours["score_change"] == theirs["score_change"]


def test_a_damaged_file_of_samples_is_sampled_again(tmp_path, model, reward_model, finished):
    run_dir = online_run(tmp_path / "run", model, reward_model)
    process = start("finetune.training.online", run_dir)
    samples = run_dir.path / "parts" / "round-1" / "checkpoints" / "samples.parquet"
    interrupt_when(process, samples, signal.SIGKILL)
    samples.write_bytes(samples.read_bytes()[:-20])
    online(run_dir, StopSignal())
    assert any("samples.parquet is damaged" in text for text in messages(run_dir, "warning"))
    assert apart(run_dir, finished) == 0


def test_continuous_batching_draws_the_samples_of_seeded(finished, model, reward_model, tmp_path):
    """Check the first round, before rounding in the training can make a difference."""
    run_dir = online_run(tmp_path, model, reward_model, rounds=1, epochs=0.1, engine="batched")
    online(run_dir, StopSignal())
    expected, batched = (samples_of(run, "round-1") for run in (finished, run_dir))
    without_score = [{**row, "score": None} for row in batched]
    assert without_score == [{**row, "score": None} for row in expected]
    assert (run_dir.path / "parts/round-1/checkpoints/.responses.jsonl").exists()


def test_a_margin_makes_ties_of_samples(tmp_path, model, reward_model, finished):
    """Check that the loss of ties, ½(-log σ(d) - log σ(-d)), is never below ln 2."""
    run_dir = online_run(tmp_path / "run", model, reward_model, rounds=1, tie_margin=1000)
    online(run_dir, StopSignal())
    lowest = {
        run: min(loss for _, loss in report_of(run)["training"]["curve"])
        for run in (run_dir, finished)
    }
    assert lowest[run_dir] >= math.log(2) - 1e-5 > lowest[finished]


# --- refusals ---------------------------------------------------------------------------------------


def test_a_run_without_training_prompts_is_refused(tmp_path, model, reward_model):
    groups = [ranked_group("g", ["a", "b"], [[0], [1]], split="test")]
    run_dir = online_run(tmp_path / "run", model, reward_model, groups=groups)
    with pytest.raises(RecipeError, match="no prompt in the train split"):
        online(run_dir, StopSignal())


def test_a_folder_without_a_reward_model_is_refused(tmp_path, model):
    run_dir = online_run(tmp_path / "run", model, tmp_path / "nothing")
    with pytest.raises(RecipeError, match="is not the output of a reward run"):
        online(run_dir, StopSignal())


def test_several_processes_are_refused(tmp_path, model, reward_model, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="in one process"):
        online(online_run(tmp_path / "run", model, reward_model), StopSignal())


def test_responses_must_leave_room_for_the_prompt():
    with pytest.raises(ConfigError, match="Must be below the longest sequence, 64"):
        OnlineSettings.from_dict(
            {"model": "m", "reward_model": "r", "max_length": 64, "max_new_tokens": 64}
        )
    sampling = OnlineSettings(model="m", reward_model="r", seed=5).sampling_of_round(2)
    assert (sampling.seed, sampling.max_prompt_tokens) == (6, 1024 - 256)
    assert json.dumps(sampling.to_dict())


# --- best of n --------------------------------------------------------------------------------------


def test_best_of_n_trains_the_response_with_the_highest_score():
    rows = [
        sample("p", n, text, score)
        for n, (text, score) in enumerate([("a", 0.2), ("b", 0.9), ("c", 0.5)])
    ]
    method = BestOfN(BestOfNSettings(model="m", reward_model="r"))
    best = method.loss_inputs(rank_group("p", user("?"), rows, 0.0)).signals["best"]
    assert best.tolist() == [0, 1, 0]
    tied = method.loss_inputs(rank_group("p", user("?"), rows, 0.5)).signals["best"]
    assert tied.tolist() == [0, 0.5, 0.5]
    assert method.config.learning_rate == 1e-4 and method.config.number_of_rounds == 1


def test_best_of_n_raises_the_score_and_resumes_after_a_kill(tmp_path, model, reward_model):
    settings = {
        "method": "best_of_n", "groups": groups_that_like_b(32), "samples_per_prompt": 8,
        "epochs": 4, "learning_rate": 1e-2,
    }  # fmt: skip
    whole = online_run(tmp_path / "1" / "run", model, reward_model, **settings)
    online(whole, StopSignal())
    report = report_of(whole)
    assert differences(report, SampledReport) == []
    assert report["kind"] == "best_of_n" and len(report["rounds"]) == 1
    assert report["score_change"]["interval"][0] > 0
    assert "the best of 8 samples of its own to each of" in (whole.output / "README.md").read_text()

    run_dir = online_run(tmp_path / "2" / "run", model, reward_model, **settings)
    process = start("finetune.training.online", run_dir)
    point = run_dir.path / "parts" / "round-1" / "checkpoints" / "checkpoint-2"
    assert interrupt_when(process, point, signal.SIGKILL) == -signal.SIGKILL
    online(run_dir, StopSignal())
    assert apart(run_dir, whole) == 0

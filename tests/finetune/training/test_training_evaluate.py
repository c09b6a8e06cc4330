"""Tests of comparing two models."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from finetune.endpoints import Endpoint
from finetune.engines.sampled_text import REGRESSION_FILE, Prompt, sample_seed, write_prompts
from finetune.training import evaluate as recipe
from finetune.training.evaluate import evaluate
from finetune.training.models.language_model import (
    PolicyChat,
    add_adapter,
    load_model,
    load_tokenizer,
)
from finetune.training.models.merged_weights import with_merged_weights
from finetune.training.sampling import seeded
from recipes.errors import RecipeError
from recipes.rundir import write_json
from recipes.stopping import StopSignal
from tests.finetune.engines.openai_server import openai_server, status
from tests.finetune.evaluation.test_training_llm_judge import shorter
from tests.finetune.training.training_runs import (
    make_adapter,
    messages,
    progress,
    report_of,
    results,
    sampling_run,
    user,
)
from tests.tiny import make_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, model):
    return make_adapter(tmp_path_factory.mktemp("adapters") / "strong", model, scale=1.0)


@pytest.fixture(scope="module")
def idle_adapter(tmp_path_factory, model):
    return make_adapter(tmp_path_factory.mktemp("adapters") / "idle", model, scale=0.0)


def evaluation(path, model, adapter, **config):
    prompts = config.pop(
        "prompts", [Prompt(f"p{n}", user("hello " * (n % 3 + 1))) for n in range(6)]
    )
    settings = {"model": str(model), "adapter": str(adapter), **config}
    return sampling_run(path, "evaluate", prompts, **settings)


def rows_of(run_dir):
    return pq.read_table(run_dir.output / "answers.parquet").to_pylist()


# --- evaluation -------------------------------------------------------------------------------------


def test_both_sides_answer_each_prompt_with_the_same_seed(tmp_path, model, adapter):
    run_dir = evaluation(tmp_path, model, adapter, samples_per_prompt=2)
    evaluate(run_dir, StopSignal())
    rows = rows_of(run_dir)
    assert [(r["prompt_id"], r["sample"]) for r in rows] == [
        (f"p{n}", k) for n in range(6) for k in (0, 1)
    ]
    assert all(r["seed"] == sample_seed(0, r["prompt_id"], r["sample"]) for r in rows)
    assert sum(r["baseline"] != r["candidate"] for r in rows) > 8
    assert results(run_dir)[-1]["answers"] == 12


def test_a_model_against_itself_ties_everywhere(tmp_path, model, idle_adapter):
    """Check that common random numbers make equal models give equal answers."""
    run_dir = evaluation(tmp_path, model, idle_adapter, max_new_tokens=30)
    evaluate(run_dir, StopSignal())
    assert all(r["baseline"] == r["candidate"] for r in rows_of(run_dir))
    report = report_of(run_dir)
    assert report["identical"] == 1.0
    assert report["divergence"]["per_token"]["value"] == pytest.approx(0.0, abs=1e-5)
    assert report["length"]["value"] == 0.0


def test_the_divergence_is_the_log_ratio_of_the_candidates_answers(tmp_path, model, adapter):
    run_dir = evaluation(tmp_path, model, adapter, max_new_tokens=12, top_p=1.0)
    evaluate(run_dir, StopSignal())
    row = rows_of(run_dir)[0]
    tuned = add_adapter(load_model(str(model), "float32"), str(adapter))
    chat = PolicyChat(load_tokenizer(str(model)), tuned.generation_config)
    prompt = chat.read(row["prompt"], []).prompt.tolist()
    answer = next(
        sampled["token_ids"]
        for shard in run_dir.checkpoints.glob("candidate-00000?.json")
        for sampled in json.loads(shard.read_text())
        if sampled["prompt_id"] == row["prompt_id"]
    )
    assert len(answer) == row["candidate_tokens"]
    with torch.no_grad():
        own = _logp_by_loop(tuned, prompt, answer)
        with tuned.disable_adapter():
            plain = _logp_by_loop(tuned, prompt, answer)
    assert row["candidate_log_ratio"] == pytest.approx(own - plain, abs=1e-3)
    figures = report_of(run_dir)["divergence"]
    assert figures["answers"] == 6
    ratios = [r["candidate_log_ratio"] for r in rows_of(run_dir)]
    tokens = sum(r["candidate_tokens"] for r in rows_of(run_dir))
    assert figures["per_answer"]["value"] == pytest.approx(np.mean(ratios))
    assert figures["per_token"]["value"] == pytest.approx(sum(ratios) / tokens)


def _logp_by_loop(model, prompt, answer):
    logp = 0.0
    for number, token in enumerate(answer):
        logits = model(input_ids=torch.tensor([prompt + answer[:number]])).logits[0, -1]
        logp += float(torch.log_softmax(logits, dim=-1)[token])
    return logp


def test_a_base_that_cannot_be_loaded_leaves_the_divergence_out(tmp_path, model, adapter):
    run_dir = evaluation(tmp_path, model, adapter, reference_model="/nowhere", max_new_tokens=4)
    evaluate(run_dir, StopSignal())
    assert report_of(run_dir)["divergence"] is None
    (warning,) = messages(run_dir, "warning")
    assert "divergence from /nowhere is not measured" in warning


def test_the_figures_leave_out_the_answers_to_the_regression_set(tmp_path, model, idle_adapter):
    run_dir = evaluation(tmp_path, model, idle_adapter, max_new_tokens=4)
    fixed = [Prompt("p1", user("hello hello ")), Prompt("fixed", user("once"))]
    write_prompts(run_dir.data / REGRESSION_FILE, fixed)
    evaluate(run_dir, StopSignal())
    assert [r["prompt_id"] for r in rows_of(run_dir)] == [*(f"p{n}" for n in range(6)), "fixed"]
    report = report_of(run_dir)
    assert (report["prompts"], report["answers"]) == (6, 6)


def test_the_baseline_may_be_another_adapter(tmp_path, model, adapter):
    run_dir = evaluation(tmp_path, model, adapter, baseline_adapter=str(adapter))
    evaluate(run_dir, StopSignal())
    assert all(r["baseline"] == r["candidate"] for r in rows_of(run_dir))


def test_a_merged_model_answers_as_its_adapter_does(tmp_path, model, adapter):
    tuned = add_adapter(load_model(str(model), "float32"), str(adapter))
    merged, _ = with_merged_weights(tuned)
    folder = tmp_path / "merged"
    merged.save_pretrained(folder)
    load_tokenizer(str(model)).save_pretrained(folder)
    run_dir = sampling_run(
        tmp_path / "run",
        "evaluate",
        [Prompt(f"p{n}", user("hello")) for n in range(4)],
        model=str(folder), baseline_model=str(model), baseline_adapter=str(adapter),
    )  # fmt: skip
    evaluate(run_dir, StopSignal())
    rows = rows_of(run_dir)
    assert len(rows) == 4
    assert all(row["candidate"] == row["baseline"] for row in rows)


def test_a_baseline_with_another_vocabulary_is_refused(tmp_path, model, adapter):
    other = make_model(tmp_path / "other")
    tokenizer = load_tokenizer(str(other))
    tokenizer.add_tokens(["brandnew"])
    tokenizer.save_pretrained(other)
    run_dir = evaluation(tmp_path / "run", model, adapter, baseline_model=str(other))
    with pytest.raises(RecipeError, match="has another vocabulary than the candidate"):
        evaluate(run_dir, StopSignal())


def test_lengths_and_truncation_are_counted_for_each_side(tmp_path, model, adapter):
    run_dir = evaluation(
        tmp_path, model, adapter, samples_per_prompt=4, max_new_tokens=40, batch_size=24
    )
    evaluate(run_dir, StopSignal())
    rows, report = rows_of(run_dir), report_of(run_dir)
    for side in ("baseline", "candidate"):
        mean = np.mean([r[f"{side}_tokens"] for r in rows])
        assert report["length"][side] == pytest.approx(mean)
        share = np.mean([r[f"{side}_truncated"] for r in rows])
        assert report["truncated"][side] == pytest.approx(share)
    assert report["length"]["prompts"] == 6


def test_progress_runs_over_both_sides(tmp_path, model, adapter):
    run_dir = evaluation(tmp_path, model, adapter)
    evaluate(run_dir, StopSignal())
    assert [(e["step"], e["total"]) for e in progress(run_dir)] == [(n, 4) for n in (1, 2, 3, 4)]


def test_prompts_that_are_too_long_are_left_out_of_both_sides(tmp_path, model, adapter):
    prompts = [Prompt("fits", user("x")), Prompt("long", user("x" * 600))]
    run_dir = evaluation(tmp_path, model, adapter, prompts=prompts)
    evaluate(run_dir, StopSignal())
    assert [r["prompt_id"] for r in rows_of(run_dir)] == ["fits"]
    assert report_of(run_dir)["left_out"][0]["count"] == 1
    assert len(messages(run_dir, "warning")) == 1


def test_a_reward_model_scores_both_sides(tmp_path, model, adapter, monkeypatch):
    """Check with a reward model that counts characters and cannot read empty texts."""

    class CountsCharacters:
        def __init__(self, folder):
            assert folder == "some/reward/model"

        def score(self, conversations):
            return [np.array([len(r) or np.nan for r in rs], np.float32) for _, rs in conversations]

    monkeypatch.setattr(recipe, "Scorer", CountsCharacters)
    run_dir = evaluation(tmp_path, model, adapter, reward_model="some/reward/model")
    evaluate(run_dir, StopSignal())
    wins = losses = 0
    for result in rows_of(run_dir):
        assert result["baseline_score"] == (len(result["baseline"]) or None)
        assert result["candidate_score"] == (len(result["candidate"]) or None)
        if result["baseline"] and result["candidate"]:
            wins += len(result["candidate"]) > len(result["baseline"])
            losses += len(result["candidate"]) < len(result["baseline"])
    rate = report_of(run_dir)["reward_win_rate"]
    assert (rate["wins"], rate["losses"]) == (wins, losses)


def test_without_a_reward_model_there_are_no_scores(tmp_path, model, adapter):
    run_dir = evaluation(tmp_path, model, adapter)
    evaluate(run_dir, StopSignal())
    assert {r["candidate_score"] for r in rows_of(run_dir)} == {None}
    assert report_of(run_dir)["reward_win_rate"]["value"] is None


def test_an_adapter_of_another_model_is_refused(tmp_path, adapter):
    other = make_model(tmp_path / "other", hidden_size=48)
    run_dir = evaluation(tmp_path / "run", other, adapter)
    with pytest.raises(RecipeError, match="made for another model"):
        evaluate(run_dir, StopSignal())
    assert not run_dir.output.exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path, adapter):
    mixed = make_model(tmp_path / "mixed", vocab_size=40)
    run_dir = evaluation(tmp_path / "run", mixed, adapter)
    with pytest.raises(RecipeError, match="do not fit together"):
        evaluate(run_dir, StopSignal())
    assert not run_dir.output.exists()


def test_a_resumed_evaluation_gives_the_same_result(tmp_path, model, adapter, monkeypatch):
    whole = evaluation(tmp_path / "whole", model, adapter)
    evaluate(whole, StopSignal())
    halved = evaluation(tmp_path / "halved", model, adapter)

    def lose_power(run_dir, step, *rest):
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(seeded, "emit_progress", lose_power)
        evaluate(halved, StopSignal())
    shards = [path for path in halved.checkpoints.iterdir() if not path.name.startswith(".")]
    assert sorted(path.stem for path in shards) == [
        "baseline-000000",
        "baseline-000001",
        "candidate-000000",
    ]
    evaluate(halved, StopSignal())
    assert rows_of(halved) == rows_of(whole)


# --- LLM judge ------------------------------------------------------------------------------------


def test_an_llm_judge_decides_each_pair_in_both_orders(tmp_path, model, adapter):
    with openai_server() as server:
        server.replies = shorter
        run_dir = evaluation(tmp_path, model, adapter, judge_endpoint="fake", judge_model="judge-1")
        endpoint = Endpoint(name="fake", url=server.url, input_price=1.0)
        write_json(run_dir.data / "endpoint-judge.json", endpoint.to_dict())
        write_json(run_dir.data / "judge.json", {"guideline": "Be short.", "secret": "s"})
        evaluate(run_dir, StopSignal())
    rows = rows_of(run_dir)
    different = [row for row in rows if row["candidate"] != row["baseline"]]
    assert different and len(server.requests) == 2 * len(different)
    assert {body["model"] for body in server.bodies} == {"judge-1"}
    for row in rows:
        lengths = len(row["candidate"]), len(row["baseline"])
        expected = 0.5 if lengths[0] == lengths[1] else float(lengths[0] < lengths[1])
        assert row["judge_verdict"] == expected
    figures = report_of(run_dir)["judge"]
    assert (figures["pairs"], figures["without_verdict"]) == (len(different), 0)
    assert figures["usage"]["cost"] == 10 * 2 * len(different) / 1e6


def test_a_baseline_on_an_endpoint_answers_the_same_prompts(tmp_path, model, adapter):
    with openai_server() as server:
        server.replies = lambda body: f"reply {body['seed']}"
        server.faults = [status(400, "too long")]
        run_dir = evaluation(
            tmp_path, model, adapter, baseline_endpoint="fake", baseline_name="large-1"
        )
        endpoint = Endpoint(name="fake", url=server.url, concurrency=1)
        write_json(run_dir.data / "endpoint-baseline.json", endpoint.to_dict())
        evaluate(run_dir, StopSignal())
    rows = rows_of(run_dir)
    assert len(server.requests) == 6 and len(rows) == 5
    for row in rows:
        assert row["baseline"] == f"reply {row['seed'] % 2**31}"
        assert row["baseline_tokens"] == 4
    report = report_of(run_dir)
    assert report["baseline_requests"]["requests"] == 6
    assert report["baseline_requests"]["missing"][0]["why"].endswith("(too long)")
